import { Worker } from 'node:worker_threads';
import { type GuestMemoryAttachment, type KvmVcpu, signalThread } from '@godwit/linux';
import type { MachineBoot } from '../machine/machine-config.js';
import { nextOrder, type SharedBoard, type VcpuCommandName } from './shared-board.js';
import type { GuestEnd, VcpuMessage, VcpuThreadData } from './vcpu-messages.js';

/** The machine's callbacks for its vCPUs. */
export interface VcpuListener {
  onConsole(): void;
  onDefect(value: number): void;
  /** The vCPU waits for the answer to its access to a register. */
  onRegister(vcpu: number): void;
  onNotified(): void;
  /** The vCPU cannot go on. Its thread waits; with `cause`, an exception of the thread, it has ended. */
  onFailed(vcpu: number, reason: string, cause?: Error): void;
  /** The guest has ended itself. The vCPU's thread waits. */
  onEnd(end: GuestEnd): void;
}

/** The memory that a vCPU's thread shares with others. */
export interface VcpuSurroundings {
  readonly board: SharedBoard;
  readonly memory: GuestMemoryAttachment;
  readonly ringCalls: SharedArrayBuffer | undefined;
  readonly vmFd: number;
  readonly boot: MachineBoot | undefined;
  readonly virtioDevices: number;
}

/**
 * The main thread's side of a vCPU's thread.
 *
 * ```
 *              run()                        park()
 *   parked ------------> in the guest ------------------> parked      end(), from everywhere: the thread ends
 *                          |       ^
 *                          +-------+ rehearse(), lookUp()
 * ```
 *
 * To get a thread out of KVM_RUN, the main thread stores the order (or a throttle), sets `immediate_exit` and sends a signal, in this
 * sequence. The thread obeys in each of these cases:
 *
 * - in KVM_RUN, in the guest: the signal makes KVM_RUN return EINTR;
 * - between reading the order and KVM_RUN, where the signal has no effect since there is no system call to interrupt: KVM_RUN sees
 *   `immediate_exit` and returns EINTR without entering the guest. With the signal alone this wake-up would be lost;
 * - in the pacer's sleep, or held back: it waits on the word of changes, which is notified;
 * - handling an exit: it reads the order next.
 *
 * The main thread sets `immediate_exit`; the thread clears it before it reads the order and the throttle. If it clears what was set for
 * an order, that order was stored before and is read next.
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
  #waiting: { readonly order: number; readonly command: VcpuCommandName; readonly resolve: () => void }[] = [];

  constructor(vcpu: KvmVcpu, { board, ...shared }: VcpuSurroundings, listener: VcpuListener) {
    this.index = vcpu.id;
    this.#vcpu = vcpu;
    this.#board = board;
    this.#listener = listener;
    this.#give('park');
    const { fd: vcpuFd, runAddress, runBytes } = vcpu;
    const workerData: VcpuThreadData = {
      ...{ vcpu: vcpu.id, vcpuFd, runAddress, runBytes },
      ...{ ...shared, board: board.buffer },
    };
    this.#worker = new Worker(new URL('./vcpu-thread.js', import.meta.url), { workerData, name: `vcpu${vcpu.id}` });
    this.#worker.on('message', (message: VcpuMessage) => this.#receive(message));
    this.#worker.on('error', (error: Error) =>
      listener.onFailed(this.index, `its thread failed: ${error.message}`, error),
    );
    this.#ended = new Promise((resolve) => {
      this.#worker.once('exit', () => {
        this.#alive = false;
        // A thread that has ended writes nothing, and counts as parked.
        for (const { resolve: parked } of this.#waiting.splice(0)) parked();
        resolve();
      });
    });
  }

  /** Resolves when the vCPU has left the guest and has no incomplete I/O, so that its state may be read and written. */
  park(): Promise<void> {
    return this.#answered('park');
  }

  /** Resolves when the vCPU has left the guest and has no incomplete I/O; it then runs on. Only for a vCPU that runs. */
  rehearse(): Promise<void> {
    return this.#answered('rehearse');
  }

  /**
   * Enters the guest. Withdraws an order to park that was not obeyed yet, for a machine that has given up waiting: the promise of that
   * `park` never settles.
   */
  run(): void {
    for (const { command, resolve } of this.#waiting.splice(0)) if (command === 'rehearse') resolve();
    this.#give('run');
  }

  /** Gets the thread out of KVM_RUN and back in, or out of a hold, so that it sees a new throttle. */
  lookUp(): void {
    this.#board.announceChange(this.index);
    this.#leaveKvmRun();
  }

  /** Tells the thread to end, without waiting, for use while the process exits. */
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
    Atomics.store(words, word, order);
    Atomics.notify(words, word);
    this.#board.announceChange(this.index);
    if (command !== 'run') this.#leaveKvmRun();
    return order;
  }

  #answered(command: VcpuCommandName): Promise<void> {
    const order = this.#give(command);
    if (!this.#alive) return Promise.resolve();
    return new Promise((resolve) => this.#waiting.push({ order, command, resolve }));
  }

  #leaveKvmRun(): void {
    // The kvm_run of a closed vCPU is unmapped; its thread is not alive then.
    if (!this.#alive) return;
    this.#vcpu.run.immediateExit = true;
    const threadId = Atomics.load(this.#board.words, this.#board.threadIdWord(this.index));
    if (threadId !== 0) signalThread(threadId);
  }

  #receive(message: VcpuMessage): void {
    switch (message.type) {
      case 'parked': {
        const done = this.#waiting.filter(({ order }) => order === message.order);
        // Waiters for an older order are answered too, since the thread is parked.
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
      case 'register':
        this.#listener.onRegister(this.index);
        return;
      case 'notified':
        this.#listener.onNotified();
        return;
      case 'failed':
        if (message.end !== undefined) this.#listener.onEnd(message.end);
        else this.#listener.onFailed(this.index, message.reason);
    }
  }
}
