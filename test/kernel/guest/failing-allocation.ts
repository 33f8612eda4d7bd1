import { execFileSync } from 'node:child_process';
import { existsSync, writeFileSync } from 'node:fs';
import { closeFd, openFile, writeFd } from '@godwit/linux/unstable';
import { succeeds } from './vfio-calls.js';

const DEBUGFS = '/sys/kernel/debug';

/**
 * The kernel's fault injection (Documentation/fault-injection): one allocation of this thread, counted from now on,
 * fails for lack of memory. Needs CONFIG_FAILSLAB.
 */
export class FailingAllocation {
  readonly #file: number;

  constructor() {
    if (!existsSync(`${DEBUGFS}/failslab`)) execFileSync('mount', ['-t', 'debugfs', 'debugfs', DEBUGFS]);
    // By default only allocations fail that may not wait.
    writeFileSync(`${DEBUGFS}/failslab/ignore-gfp-wait`, 'N');
    this.#file = openFile('/proc/thread-self/fail-nth');
  }

  /** Makes the call with its `nth` allocation failing, from 1. The call must make at most one system call. */
  during<T>(nth: number, call: () => T): T {
    const armed = new TextEncoder().encode(String(nth));
    const disarmed = new TextEncoder().encode('0');
    succeeds('fail-nth', writeFd(this.#file, armed));
    const result = call();
    succeeds('fail-nth', writeFd(this.#file, disarmed));
    return result;
  }

  close(): void {
    closeFd(this.#file);
  }
}
