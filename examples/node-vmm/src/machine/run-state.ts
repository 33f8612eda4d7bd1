import { GodwitError, type RunState as GuestRunState } from '@godwit/core';
import { Subject } from 'rxjs';
import type { GuestEnd } from '../vcpu/vcpu-messages.js';
import type { MachineEvent, VirtualMachine } from './virtual-machine.js';

/** The actions of a kind of machine at each transition. */
export interface RunActions {
  /** Stops every writer of guest memory. When `signal` aborts it rejects; `start` then undoes what was begun. */
  stop(signal?: AbortSignal): Promise<void>;
  start(): void;
  /** Frees everything; the guest does not run. */
  free(): Promise<void>;
}

/**
 * The state of a machine, and its transitions: one at a time, in the order of the calls.
 *
 * ```
 *             resume                 crash, end
 *   paused <----------> running ------------> crashed, ended       close, from everywhere: closed, for good
 *             pause
 * ```
 */
export class RunState {
  readonly events = new Subject<MachineEvent>();
  readonly #actions: RunActions;
  #state: VirtualMachine['state'] = 'paused';
  #crash: GodwitError | undefined;
  #transition: Promise<void> = Promise.resolve();
  #closing: Promise<void> | undefined;

  constructor(actions: RunActions) {
    this.#actions = actions;
  }

  get state(): VirtualMachine['state'] {
    return this.#state;
  }

  /** The state for `MigratableVm.runState`. A crash counts as soon as it is known, before the rest of the machine has stopped. */
  get guest(): GuestRunState {
    if (this.#crash !== undefined || this.#closing !== undefined || this.#state === 'closed') return 'ended';
    return this.#state === 'running' ? 'running' : 'paused';
  }

  /** @throws GodwitError the crash, or GODWIT_INVALID_STATE when closed */
  requireAlive(): void {
    if (this.#closing !== undefined) throw closed();
    if (this.#crash !== undefined) throw this.#crash;
  }

  /**
   * Pauses the machine; does nothing when it is paused, crashed or closed. When it fails, or `signal` aborts before it has resolved, the
   * machine runs again once it has rejected.
   *
   * @throws GodwitError GODWIT_CANCELLED when `signal` aborted
   */
  pause(signal?: AbortSignal): Promise<void> {
    return this.#next(async () => {
      if (this.#state !== 'running') return;
      if (isAborted(signal)) throw givenUp(signal);
      try {
        await this.#actions.stop(signal);
        signal?.throwIfAborted();
      } catch (error) {
        this.#runOn();
        throw isAborted(signal) ? givenUp(signal) : error;
      }
      // The machine may have crashed while it was being stopped.
      if (this.#crash !== undefined) return;
      this.#state = 'paused';
      this.events.next({ type: 'paused' });
    });
  }

  /** Idempotent. @throws GodwitError the crash, or GODWIT_INVALID_STATE when closed */
  resume(): Promise<void> {
    return this.#next(async () => {
      if (this.#state === 'closed') throw closed();
      if (this.#crash !== undefined) throw this.#crash;
      if (this.#state === 'running') return;
      this.#actions.start();
      this.#state = 'running';
      this.events.next({ type: 'resumed' });
    });
  }

  /** Runs `work` between two transitions, if the machine is then in `state`; else returns `otherwise`. */
  during<T>(state: 'paused' | 'running', work: () => Promise<T>, otherwise: T): Promise<T> {
    return this.#next(async () => (this.#state === state && this.#crash === undefined ? work() : otherwise));
  }

  /**
   * Handles a guest that cannot go on: stops the rest of the machine, then emits `crashed`. Only the first crash counts.
   *
   * @param describe called when the machine has stopped
   */
  crash(describe: () => GodwitError): void {
    this.#over(new GodwitError('GODWIT_GUEST_CRASHED', 'the guest has crashed and is being stopped'), () => {
      const error = describe();
      this.#state = 'crashed';
      return { type: 'crashed', error };
    });
  }

  /** Handles a guest that has ended itself: stops the rest of the machine, then emits `ended`. Only the first end or crash counts. */
  end(end: GuestEnd): void {
    const what = end === 'reset' ? 'asked for a reset, which ends it here' : 'shut itself down';
    const error = new GodwitError('GODWIT_GUEST_ENDED', `the guest has ${what}`);
    this.#over(error, () => {
      this.#state = 'ended';
      return { type: 'ended', end, error };
    });
  }

  /** @param stopped called when the machine has stopped */
  #over(why: GodwitError, stopped: () => Extract<MachineEvent, { readonly error: GodwitError }>): void {
    if (this.#crash !== undefined || this.#closing !== undefined) return;
    this.#crash = why;
    void this.#next(async () => {
      if (this.#state === 'closed') return;
      await this.#actions.stop().catch(() => undefined);
      const event = stopped();
      this.#crash = event.error;
      this.events.next(event);
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

  /** Runs the machine again after a pause has failed; if that fails too, the machine has crashed. */
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

  #next<T>(transition: () => Promise<T>): Promise<T> {
    const done = this.#transition.then(transition);
    // The next transition starts even if this one fails.
    this.#transition = done.then(
      () => undefined,
      () => undefined,
    );
    return done;
  }
}

function closed(): GodwitError {
  return new GodwitError('GODWIT_INVALID_STATE', 'the machine is closed');
}

function isAborted(signal: AbortSignal | undefined): boolean {
  return signal?.aborted === true;
}

function givenUp(signal: AbortSignal | undefined): GodwitError {
  return new GodwitError('GODWIT_CANCELLED', 'the pause was given up before the guest had stopped; the guest runs on', {
    cause: signal?.reason,
  });
}
