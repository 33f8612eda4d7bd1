import { SharedLock } from '../vcpu/shared-lock.js';
import { VirtioWord, type VirtioWords } from './virtio-words.js';

/**
 * The interrupt of one device, which the main thread and all vCPU threads share: the interrupt status register, and the line, which is
 * high while a bit of it is set (triggered by level).
 */
export class InterruptLine {
  readonly #words: Int32Array<SharedArrayBuffer>;
  readonly #at: number;
  readonly #setLine: (high: boolean) => void;
  readonly #lock: SharedLock;

  /** @param setLine sets the level of the line in the interrupt controllers */
  constructor(words: VirtioWords, device: number, setLine: (high: boolean) => void) {
    this.#words = words.words;
    this.#at = words.device(device);
    this.#setLine = setLine;
    this.#lock = new SharedLock(this.#words, this.#at + VirtioWord.lock);
  }

  /** The interrupt status register: bits of `InterruptBit`. */
  get status(): number {
    return Atomics.load(this.#words, this.#at + VirtioWord.interruptStatus);
  }

  raise(bits: number): void {
    this.#change((status) => status | bits);
  }

  acknowledge(bits: number): void {
    this.#change((status) => status & ~bits);
  }

  /** Sets the status, and the level of the line even if that has not changed: after a reset, and when a state was loaded. */
  set(status: number): void {
    this.#lock.exclusively(() => {
      Atomics.store(this.#words, this.#at + VirtioWord.interruptStatus, status);
      this.#setLine(status !== 0);
    });
  }

  #change(next: (status: number) => number): void {
    this.#lock.exclusively(() => {
      const before = this.status;
      const after = next(before);
      Atomics.store(this.#words, this.#at + VirtioWord.interruptStatus, after);
      if ((before !== 0) !== (after !== 0)) this.#setLine(after !== 0);
    });
  }
}
