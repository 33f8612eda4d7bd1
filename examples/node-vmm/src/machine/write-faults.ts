import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { KvmVcpu } from '@godwit/linux';
import type { VcpuStatistics } from '@godwit/linux/kvm';

/** KVM's counter of page faults that it has resolved. */
const FAULTS = 'pf_fixed';

/**
 * Counts how much each vCPU dirties by the page faults that KVM resolves for it. While KVM logs dirty pages by write protection, each
 * fault is the first write to a page since the last harvest, or the first access to a page.
 */
export class WriteFaults {
  readonly #statistics: VcpuStatistics[] = [];
  readonly #seen: number[] = [];

  private constructor() {}

  /**
   * Returns `undefined` where faults do not show writes (`logsByFaults`), or are not counted (before Linux 5.14). To be called before
   * the vCPUs run: KVM does not open the counters of a vCPU that runs.
   */
  static of(vcpus: readonly KvmVcpu[]): WriteFaults | undefined {
    if (!logsByFaults()) return undefined;
    const faults = new WriteFaults();
    try {
      for (const vcpu of vcpus) {
        const counters = vcpu.statistics();
        if (counters === undefined) return undefined;
        faults.#statistics.push(counters);
        faults.#seen.push(0);
      }
      return faults;
    } finally {
      if (faults.#statistics.length < vcpus.length) faults.close();
    }
  }

  /** The faults of each vCPU since the last call. */
  sinceLast(): readonly number[] {
    return this.#statistics.map((statistics, vcpu) => {
      const count = statistics.read(FAULTS) ?? 0;
      const before = this.#seen[vcpu] as number;
      this.#seen[vcpu] = count;
      return count - before;
    });
  }

  close(): void {
    for (const statistics of this.#statistics) statistics.close();
  }
}

/**
 * Whether this host's KVM takes a fault for the first write to a page that it logs. KVM takes none where the processor logs writes
 * itself (page-modification logging). PVM, which has neither of these modules, counts no faults.
 */
export function logsByFaults(modules = '/sys/module'): boolean {
  const module = ['kvm_intel', 'kvm_amd'].find((name) => existsSync(join(modules, name)));
  if (module === undefined) return false;
  const parameter = join(modules, module, 'parameters', 'pml');
  return !existsSync(parameter) || readFileSync(parameter, 'latin1').trim() !== 'Y';
}
