import { GodwitError } from '@godwit/core';
import { Subject } from 'rxjs';
import type { MachineEvent } from './virtual-machine.js';

/** What a kind of machine does at each transition. */
export interface RunActions {
  /** Stops every writer of guest memory. */
  stop(): Promise<void>;
  start(): void;
  /** Frees everything; the guest does not run. */
  free(): Promise<void>;
}

/**
 * Whether a machine runs, and the transitions between: one at a time, in the order in which they were asked for.
 *
 * ```
 *             resume                 crash
 *   paused <----------> running ------------> crashed       close, from everywhere: closed, for good
 *             pause
 * ```
 */
export class RunState {
  readonly events = new Subject<MachineEvent>();
  readonly #actions: RunActions;
  #state: 'paused' | 'running' | 'crashed' | 'closed' = 'paused';
  #crash: GodwitError | undefined;
  #transition: Promise<void> = Promise.resolve();
  #closing: Promise<void> | undefined;

  constructor(actions: RunActions) {
    this.#actions = actions;
  }

  get state(): 'paused' | 'running' | 'crashed' | 'closed' {
    return this.#state;
  }

  /**
   * Idempotent. A crashed or closed machine is as stopped as it gets. When it fails the machine runs on.
   */
  pause(): Promise<void> {
    return this.#next(async () => {
      if (this.#state !== 'running') return;
      try {
        await this.#actions.stop();
      } catch (error) {
        this.#runOn();
        throw error;
      }
      // It may have crashed while it was being stopped.
      if (this.#crash !== undefined) return;
      this.#state = 'paused';
      this.events.next({ type: 'paused' });
    });
  }

  /** Idempotent. @throws GodwitError the crash, or GODWIT_INVALID_STATE when closed */
  resume(): Promise<void> {
    return this.#next(async () => {
      if (this.#state === 'closed') throw new GodwitError('GODWIT_INVALID_STATE', 'the machine is closed');
      if (this.#crash !== undefined) throw this.#crash;
      if (this.#state === 'running') return;
      this.#actions.start();
      this.#state = 'running';
      this.events.next({ type: 'resumed' });
    });
  }

  /**
   * The guest cannot go on: stops the rest of the machine, then tells the embedder. Only the first crash counts.
   *
   * @param describe called when everything stands still
   */
  crash(describe: () => GodwitError): void {
    if (this.#crash !== undefined || this.#closing !== undefined) return;
    this.#crash = new GodwitError('GODWIT_GUEST_CRASHED', 'the guest has crashed and is being stopped');
    void this.#next(async () => {
      if (this.#state === 'closed') return;
      await this.#actions.stop().catch(() => undefined);
      const error = describe();
      this.#crash = error;
      this.#state = 'crashed';
      this.events.next({ type: 'crashed', error });
    });
  }

  /** Idempotent: all calls get the same promise. */
  close(): Promise<void> {
    this.#closing ??= this.#next(async () => {
      try {
        if (this.#state === 'running') await this.#actions.stop();
      } finally {
        this.#state = 'closed';
        await this.#actions.free();
        this.events.next({ type: 'closed' });
        this.events.complete();
      }
    });
    return this.#closing;
  }

  /** A pause has failed half-way: the machine goes on as a whole, or it has crashed. */
  #runOn(): void {
    if (this.#crash !== undefined) return;
    try {
      this.#actions.start();
    } catch (cause) {
      const error = GodwitError.wrap(cause, 'GODWIT_VM_FAILED', 'the machine could be neither paused nor resumed');
      this.#crash = error;
      this.#state = 'crashed';
      this.events.next({ type: 'crashed', error });
    }
  }

  #next(transition: () => Promise<void>): Promise<void> {
    const done = this.#transition.then(transition);
    // The next one starts whatever became of this one.
    this.#transition = done.catch(() => undefined);
    return done;
  }
}
