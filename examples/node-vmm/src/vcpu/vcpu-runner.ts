import { Worker } from 'node:worker_threads';
import { type GuestMemoryAttachment, type KvmVcpu, signalThread } from '@godwit/linux';
import { nextOrder, type SharedBoard, VcpuCommand, type VcpuCommandName } from './shared-board.js';
import type { VcpuMessage, VcpuThreadData } from './vcpu-messages.js';

/** What the machine wants to hear of its vCPUs. */
export interface VcpuListener {
  onConsole(): void;
  onDefect(value: number): void;
  /** The vCPU cannot go on; its thread waits, or has ended when `cause` is an exception of it. */
  onFailed(vcpu: number, reason: string, cause?: Error): void;
}

/**
 * The main thread's side of a vCPU's thread.
 *
 * ```
 *              run()                        park()
 *   parked ------------> in the guest ------------------> parked      end(), from everywhere: the thread ends
 * ```
 *
 * Getting a thread out of KVM_RUN takes three steps, in this order: `immediate_exit` is set, the order is stored, a
 * signal is sent. Wherever the thread is, it obeys:
 *
 * - inside KVM_RUN, in the guest: the signal makes KVM_RUN return EINTR;
 * - between its look at the order and KVM_RUN, where the signal does nothing because no system call is there to be
 *   interrupted: KVM_RUN sees `immediate_exit` and returns EINTR without entering the guest. This is the wake-up that a
 *   signal alone would lose;
 * - in the pacer's sleep: it waits on the order's word, which is notified;
 * - handling an exit: it looks at the order next.
 *
 * Only the main thread writes `immediate_exit`, and clears it when the thread has said that it is parked, so there is no
 * race over that either.
 */
export class VcpuRunner {
  readonly index: number;
  readonly #vcpu: KvmVcpu;
  readonly #board: SharedBoard;
  readonly #listener: VcpuListener;
  readonly #worker: Worker;
  readonly #ended: Promise<void>;
  #order = 0;
  #alive = true;
  #waiting: { readonly order: number; readonly resolve: () => void }[] = [];

  constructor(vcpu: KvmVcpu, board: SharedBoard, memory: GuestMemoryAttachment, listener: VcpuListener) {
    this.index = vcpu.id;
    this.#vcpu = vcpu;
    this.#board = board;
    this.#listener = listener;
    this.#give('park');
    const { fd: vcpuFd, runAddress, runBytes } = vcpu;
    const workerData: VcpuThreadData = { vcpu: vcpu.id, vcpuFd, runAddress, runBytes, board: board.buffer, memory };
    this.#worker = new Worker(new URL('./vcpu-thread.js', import.meta.url), { workerData, name: `vcpu${vcpu.id}` });
    this.#worker.on('message', (message: VcpuMessage) => this.#receive(message));
    this.#worker.on('error', (error: Error) =>
      listener.onFailed(this.index, `its thread failed: ${error.message}`, error),
    );
    this.#ended = new Promise((resolve) => {
      this.#worker.once('exit', () => {
        this.#alive = false;
        // A thread that is gone writes nothing: as parked as can be.
        for (const { resolve: parked } of this.#waiting.splice(0)) parked();
        resolve();
      });
    });
  }

  /** Resolves when the vCPU is out of the guest with no I/O half done, and its state may be read and written. */
  park(): Promise<void> {
    const order = this.#give('park');
    if (!this.#alive) return Promise.resolve();
    return new Promise((resolve) => this.#waiting.push({ order, resolve }));
  }

  /**
   * Enters the guest. Takes back an order to park that has not been obeyed yet, for a machine that gave up waiting: its
   * promise then never settles.
   */
  run(): void {
    this.#waiting = [];
    this.#give('run');
  }

  /** Gets the thread out of KVM_RUN and back in, so that it sees a new throttle. */
  kick(): void {
    const threadId = Atomics.load(this.#board.words, this.#board.threadIdWord(this.index));
    if (this.#alive && threadId !== 0) signalThread(threadId);
  }

  /** Tells the thread to end, without waiting: all that can be done while the process exits. */
  tellToEnd(): void {
    this.#give('end');
  }

  /** Ends the thread. */
  async end(): Promise<void> {
    this.#give('end');
    await this.#ended;
  }

  #give(command: VcpuCommandName): number {
    const order = nextOrder(this.#order, command);
    this.#order = order;
    const { words } = this.#board;
    const word = this.#board.commandWord(this.index);
    // A closed vCPU's kvm_run is unmapped, but then the thread is not alive either.
    if (this.#alive) this.#vcpu.run.immediateExit = VcpuCommand[command] !== VcpuCommand.run;
    Atomics.store(words, word, order);
    Atomics.notify(words, word);
    if (command !== 'run') this.kick();
    return order;
  }

  #receive(message: VcpuMessage): void {
    switch (message.type) {
      case 'parked': {
        const done = this.#waiting.filter(({ order }) => order === message.order);
        // Waiters for an older order are answered too: the thread is parked, by whoever's order.
        if (message.order === this.#order) done.push(...this.#waiting.filter(({ order }) => order !== message.order));
        this.#waiting = this.#waiting.filter((waiter) => !done.includes(waiter));
        for (const { resolve } of done) resolve();
        return;
      }
      case 'console':
        this.#listener.onConsole();
        return;
      case 'defect':
        this.#listener.onDefect(message.value);
        return;
      case 'failed':
        this.#listener.onFailed(this.index, message.reason);
    }
  }
}
