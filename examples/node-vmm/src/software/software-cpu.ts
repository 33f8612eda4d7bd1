import { Worker } from 'node:worker_threads';
import { GodwitError, type MigratableDevice } from '@godwit/core';
import type { GuestMemoryAttachment } from '@godwit/linux';
import {
  decodeSoftwareGuestState,
  encodeSoftwareGuestState,
  SOFTWARE_GUEST_STATE_VERSION,
} from '../guest/software-guest-state.js';
import { requireVersion, StateReader, StateWriter } from '../state/state-sections.js';
import { BoardWord, nextOrder, type SharedBoard } from '../vcpu/shared-board.js';
import type { SoftwareMessage, SoftwareOrder, SoftwareThreadData } from './software-messages.js';

export interface SoftwareCpuListener {
  onConsole(): void;
  onDefect(value: number): void;
  onFailed(cause: Error): void;
}

/**
 * The processor of a software guest: its thread, and its state outside guest memory as a device. The state is here while the guest is
 * stopped, and in the thread while it runs.
 */
export class SoftwareCpu implements MigratableDevice {
  readonly id = 'software-cpu';
  readonly version = SOFTWARE_GUEST_STATE_VERSION;
  /** Resolves when the thread has started, or has ended without starting. */
  readonly started: Promise<void>;
  readonly #vcpus: number;
  readonly #board: SharedBoard;
  readonly #words: Int32Array<SharedArrayBuffer>;
  readonly #worker: Worker;
  readonly #ended: Promise<void>;
  #state: Uint8Array | undefined;
  #order = 0;
  #rehearsal: { readonly order: number; readonly resolve: () => void } | undefined;
  #stopped: { readonly done: Promise<void>; readonly resolve: () => void } | undefined;

  constructor(vcpus: number, board: SharedBoard, memory: GuestMemoryAttachment, listener: SoftwareCpuListener) {
    this.#vcpus = vcpus;
    this.#board = board;
    this.#words = board.words;
    const workerData: SoftwareThreadData = { board: board.buffer, memory };
    this.#worker = new Worker(new URL('./software-thread.js', import.meta.url), { workerData, name: 'software-guest' });
    let standing = (): void => undefined;
    this.started = new Promise((resolve) => {
      standing = resolve;
    });
    this.#worker.on('message', (message: SoftwareMessage) => {
      if (message.type === 'console') listener.onConsole();
      else if (message.type === 'defect') listener.onDefect(message.value);
      else if (message.type === 'started') standing();
      else if (message.type === 'rehearsed') this.#rehearsed(message.order);
      else {
        this.#state = message.state;
        this.#hasStopped();
      }
    });
    this.#worker.on('error', (error: Error) => listener.onFailed(error));
    this.#ended = new Promise((resolve) => {
      this.#worker.once('exit', () => {
        this.#hasStopped();
        standing();
        resolve();
      });
    });
  }

  /** Runs the guest. @throws GodwitError GODWIT_VM_FAILED while it still runs, after a `stop` that was not awaited */
  run(): void {
    if (this.#stopped !== undefined)
      throw new GodwitError('GODWIT_VM_FAILED', 'the software guest has not stopped yet');
    let resolve = (): void => undefined;
    const done = new Promise<void>((settle) => {
      resolve = settle;
    });
    this.#stopped = { done, resolve };
    Atomics.store(this.#words, BoardWord.softwareRequest, 0);
    this.#tell({ type: 'run', state: this.#state });
  }

  /** Stops the guest; resolves when it writes no more. A guest that has found a defect has stopped by itself. */
  async stop(): Promise<void> {
    this.tellToStop();
    await this.#stopped?.done;
  }

  /** Requests the stop without waiting for it. */
  tellToStop(): void {
    Atomics.store(this.#words, BoardWord.softwareRequest, 1);
    this.#board.announceChange(0);
  }

  /** Resolves when the running guest could have stopped; it runs on. Resolves at once for a guest that has stopped by itself. */
  rehearse(): Promise<void> {
    if (this.#stopped === undefined) return Promise.resolve();
    this.#order = nextOrder(this.#order, 'rehearse');
    Atomics.store(this.#words, this.#board.commandWord(0), this.#order);
    this.#board.announceChange(0);
    this.#rehearsal?.resolve();
    return new Promise((resolve) => {
      this.#rehearsal = { order: this.#order, resolve };
    });
  }

  /** Ends the thread. */
  async end(): Promise<void> {
    this.tellToStop();
    this.#tell({ type: 'end' });
    await this.#ended;
  }

  async *save(): AsyncIterable<Uint8Array> {
    const writer = new StateWriter();
    // The state is absent for a guest that has never run.
    yield (this.#state === undefined ? writer.absent('GEST') : writer.section('GEST', this.#state)).finish();
  }

  async load(state: AsyncIterable<Uint8Array>, version: number): Promise<void> {
    requireVersion(this.id, version, this.version);
    const reader = await StateReader.read(this.id, state, ['GEST']);
    const bytes = reader.optional('GEST');
    if (bytes === undefined) {
      reader.requireMention('GEST');
      this.#state = undefined;
      return;
    }
    try {
      const decoded = decodeSoftwareGuestState(bytes);
      if (decoded.vcpus.length !== this.#vcpus) {
        throw new RangeError(`it is of ${decoded.vcpus.length} vCPUs, this machine has ${this.#vcpus}`);
      }
      this.#state = encodeSoftwareGuestState(decoded);
    } catch (error) {
      throw GodwitError.wrap(error, 'GODWIT_DEVICE_FAILED', `the state of ${this.id} cannot be loaded`);
    }
  }

  /** Returns no pages: this state is outside guest memory. */
  loadWrites(): readonly [] {
    return [];
  }

  /** Ends the waits for a guest that has stopped. */
  #hasStopped(): void {
    this.#rehearsal?.resolve();
    this.#rehearsal = undefined;
    this.#stopped?.resolve();
    this.#stopped = undefined;
  }

  #rehearsed(order: number): void {
    if (this.#rehearsal === undefined || order !== this.#rehearsal.order) return;
    this.#rehearsal.resolve();
    this.#rehearsal = undefined;
  }

  #tell(order: SoftwareOrder): void {
    this.#worker.postMessage(order);
  }
}
