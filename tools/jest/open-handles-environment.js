import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { setTimeout as sleep } from 'node:timers/promises';
import { TestEnvironment as NodeEnvironment } from 'jest-environment-node';
import { bindGlobals } from './bind-globals.js';

/** How long a socket, worker or timer may take to close after the last test of a file. */
const GRACE_MS = 1000;

/**
 * Jest's environment for Node, with one more rule: a test file that leaves a socket, a timer, a thread or a child
 * process open fails. Jest itself would hang without a message, or end its worker without one.
 */
export default class OpenHandlesEnvironment extends NodeEnvironment {
  /** @type {string[]} */
  #before = [];
  /** Threads are not among the active resources that Node lists. */
  #threads = 0;
  #onThread = (/** @type {unknown} */ message) => {
    this.#threads++;
    const { worker } = /** @type {{ worker: import('node:worker_threads').Worker }} */ (message);
    worker.once('exit', () => {
      this.#threads--;
    });
  };

  /**
   * @param {import('@jest/environment').JestEnvironmentConfig} config
   * @param {import('@jest/environment').EnvironmentContext} context
   */
  constructor(config, context) {
    super(config, context);
    // property-seed.js, which runs before the test file, reads this.
    this.global['testPath'] = context.testPath;
  }

  /** @override */
  async setup() {
    await super.setup();
    if (this.context !== null) bindGlobals(this.context);
    // Node opens these streams at first use. They belong to the worker, and must not count for the test file that
    // prints first.
    void process.stdin;
    void process.stdout;
    void process.stderr;
    this.#before = process.getActiveResourcesInfo();
    subscribe('worker_threads', this.#onThread);
  }

  /** @override */
  async teardown() {
    unsubscribe('worker_threads', this.#onThread);
    await super.teardown();
  }

  /**
   * @param {{ name: string }} event
   * @param {{ unhandledErrors: unknown[] }} state
   */
  async handleTestEvent(event, state) {
    if (event.name !== 'run_finish') return;
    const deadline = Date.now() + GRACE_MS;
    let left = this.#left();
    while (left.length > 0 && Date.now() < deadline) {
      await sleep(10);
      left = this.#left();
    }
    if (left.length === 0) return;
    const error = new Error(
      `this file left open: ${left.join(', ')}. Close them in the test; \`npm run jest -- --detectOpenHandles FILE\` shows where they come from`,
    );
    error.stack = error.message;
    state.unhandledErrors.push(error);
  }

  /** The resources that keep the process alive now and did not exist before the file ran. */
  #left() {
    const left = process.getActiveResourcesInfo();
    for (const kind of this.#before) {
      const at = left.indexOf(kind);
      if (at !== -1) left.splice(at, 1);
    }
    for (let i = 0; i < this.#threads; i++) left.push('Worker');
    return left;
  }
}
