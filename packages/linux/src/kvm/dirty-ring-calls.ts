/** Words: see `DirtyRingCalls`. */
const CALLED = 0;
const SERVED = 1;
const HARVESTS = 2;
const STATE = 3;
const FIRST_FULL = 4;

/** No thread reaps; one does; it is to end. */
const IDLE = 0;
const REAPING = 1;
const ENDING = 2;

/** How long a vCPU waits that nobody can help, in milliseconds: it would otherwise come back at once. */
const HELPLESS_MS = 1;
/** How soon it notices, in milliseconds, that the thread has died just before it began to wait. */
const LOOK_MS = 100;

/**
 * How other threads call the one that reaps a VM's dirty rings, through memory: a vCPU's thread cannot await a message.
 *
 * A vCPU that has left the guest because its ring is full (KVM_EXIT_DIRTY_RING_FULL) cannot enter it again before the ring is reaped:
 *
 * ```ts
 * const calls = new DirtyRingCalls(storage); // `tracker.calls.storage`, passed to the vCPU's thread
 * if (run.exitReason === KvmExit.KVM_EXIT_DIRTY_RING_FULL) calls.ringFull(vcpu); // then KVM_RUN again
 * ```
 */
export class DirtyRingCalls {
  readonly storage: SharedArrayBuffer;
  readonly #words: Int32Array;

  /** @param of the number of vCPUs, or the storage of calls that exist already */
  constructor(of: number | SharedArrayBuffer) {
    this.storage = typeof of === 'number' ? new SharedArrayBuffer((FIRST_FULL + of) * 4) : of;
    this.#words = new Int32Array(this.storage);
  }

  /**
   * For the thread of a vCPU whose ring is full: waits until all rings are reaped, which takes a millisecond at most on an idle machine.
   * Returns after a millisecond when no thread reaps: the one that did has failed, and the vCPU sees the same exit until logging is off.
   */
  ringFull(vcpu: number): void {
    Atomics.add(this.#words, FIRST_FULL + vcpu, 1);
    const call = this.#call();
    for (;;) {
      const served = Atomics.load(this.#words, SERVED);
      if (((served - call) | 0) >= 0) return;
      const idle = Atomics.load(this.#words, STATE) === IDLE;
      Atomics.wait(this.#words, SERVED, served, idle ? HELPLESS_MS : LOOK_MS);
      if (idle) return;
    }
  }

  /** How often each vCPU's ring was full, modulo 2^32. */
  fullExits(): number[] {
    return Array.from(
      this.#words.subarray(FIRST_FULL),
      (_, vcpu) => Atomics.load(this.#words, FIRST_FULL + vcpu) >>> 0,
    );
  }

  /** Asks for all that is dirty; returns the number of this harvest. */
  harvest(): number {
    const harvest = (Atomics.add(this.#words, HARVESTS, 1) + 1) | 0;
    this.#call();
    return harvest;
  }

  /** A thread reaps from here on. */
  begin(): void {
    Atomics.store(this.#words, STATE, REAPING);
  }

  /** The thread is to reap once more and end. */
  end(): void {
    Atomics.store(this.#words, STATE, ENDING);
    this.#call();
  }

  /** No thread reaps any more: nobody waits for it. */
  ended(): void {
    Atomics.store(this.#words, STATE, IDLE);
    Atomics.notify(this.#words, SERVED);
  }

  /** For the thread that reaps: what was asked for by now. */
  take(): { readonly call: number; readonly harvest: number; readonly ending: boolean } {
    // The call first: whoever calls has stored what it calls for before.
    const call = Atomics.load(this.#words, CALLED);
    return { call, harvest: Atomics.load(this.#words, HARVESTS), ending: Atomics.load(this.#words, STATE) === ENDING };
  }

  /** For the thread that reaps: everything that was called for up to `call` is done. */
  serve(call: number): void {
    if (Atomics.exchange(this.#words, SERVED, call) !== call) Atomics.notify(this.#words, SERVED);
  }

  /** For the thread that reaps: waits for a call after `call`, at most `milliseconds`. */
  wait(call: number, milliseconds: number): void {
    Atomics.wait(this.#words, CALLED, call, milliseconds);
  }

  #call(): number {
    const call = (Atomics.add(this.#words, CALLED, 1) + 1) | 0;
    Atomics.notify(this.#words, CALLED);
    return call;
  }
}
