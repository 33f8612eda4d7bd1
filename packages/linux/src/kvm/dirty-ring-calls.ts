/** Words: see `DirtyRingCalls`. */
const CALLED = 0;
const SERVED = 1;
const HARVESTS = 2;
const STATE = 3;
const FIRST_FULL = 4;

/** The states of the thread that reaps: there is none, it reaps, it is to end. */
const IDLE = 0;
const REAPING = 1;
const ENDING = 2;

/** How long a vCPU waits when no thread reaps, in milliseconds: it would otherwise make the same exit again at once. */
const HELPLESS_MS = 1;
/** The longest time, in milliseconds, until a waiting vCPU notices that the thread ended just before the wait began. */
const LOOK_MS = 100;

/**
 * The calls of other threads to the thread that reaps a VM's dirty rings, through shared memory: a vCPU's thread cannot await a message.
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
   * Called on the thread of a vCPU whose ring is full: waits until all rings are reaped, which takes a millisecond at most on an idle
   * machine. Returns after a millisecond when no thread reaps because it has failed; the vCPU then makes the same exit until logging is
   * off.
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

  /** Asks for all dirty pages; returns the number of this harvest. */
  harvest(): number {
    const harvest = (Atomics.add(this.#words, HARVESTS, 1) + 1) | 0;
    this.#call();
    return harvest;
  }

  /** Notes that a thread reaps from here on. */
  begin(): void {
    Atomics.store(this.#words, STATE, REAPING);
  }

  /** Tells the thread to reap once more and end. */
  end(): void {
    Atomics.store(this.#words, STATE, ENDING);
    this.#call();
  }

  /** Notes that no thread reaps any more, and ends all waits. */
  ended(): void {
    Atomics.store(this.#words, STATE, IDLE);
    Atomics.notify(this.#words, SERVED);
  }

  /** Called on the thread that reaps: returns the calls so far. */
  take(): { readonly call: number; readonly harvest: number; readonly ending: boolean } {
    // The number of calls is read first: a caller stores its request before it counts its call.
    const call = Atomics.load(this.#words, CALLED);
    return { call, harvest: Atomics.load(this.#words, HARVESTS), ending: Atomics.load(this.#words, STATE) === ENDING };
  }

  /** Called on the thread that reaps: notes that all calls up to `call` are served. */
  serve(call: number): void {
    if (Atomics.exchange(this.#words, SERVED, call) !== call) Atomics.notify(this.#words, SERVED);
  }

  /** Called on the thread that reaps: waits for a call after `call`, at most `milliseconds`. */
  wait(call: number, milliseconds: number): void {
    Atomics.wait(this.#words, CALLED, call, milliseconds);
  }

  #call(): number {
    const call = (Atomics.add(this.#words, CALLED, 1) + 1) | 0;
    Atomics.notify(this.#words, CALLED);
    return call;
  }
}
