import { KvmDirtyRing } from '@godwit/linux/unstable';

const { KVM_DIRTY_GFN_F_DIRTY: DIRTY, KVM_DIRTY_GFN_F_RESET: RESET } = KvmDirtyRing;

/** What KVM does with dirty rings (virt/kvm/dirty_ring.c), with memory of one number for each page of each slot. */
export class SimulatedRings {
  readonly memory: readonly Float64Array[];
  readonly rings: readonly Int32Array[];
  /** Called in the middle of a reset, before any entry is reset. */
  beforeReset: () => void = () => undefined;
  /** Whether an entry was overwritten that nobody has reset. */
  overwritten = false;
  /** Whether a ring was filled to its last entry. */
  brim = false;
  /** Entries that the next resets do at most, as when signals interrupt them. */
  interrupted: number[] = [];
  readonly #entries: number;
  readonly #reserve: number;
  readonly #armed: readonly Uint8Array[];
  #logging = true;
  /** Free-running, as in the kernel. */
  readonly #dirty: number[];
  readonly #reset: number[];

  constructor(slots: readonly number[], vcpus: number, entries: number, reserve: number) {
    this.memory = slots.map((pages) => new Float64Array(pages));
    this.#armed = slots.map((pages) => new Uint8Array(pages).fill(1));
    this.rings = Array.from({ length: vcpus }, () => new Int32Array(entries * 4));
    this.#entries = entries;
    this.#reserve = reserve;
    this.#dirty = this.rings.map(() => 0);
    this.#reset = this.rings.map(() => 0);
  }

  /** Whether the vCPU may not enter the guest. */
  isFull(vcpu: number): boolean {
    const used = (this.#dirty[vcpu] as number) - (this.#reset[vcpu] as number);
    // Unsigned in KVM: one that was reset too far is full for ever.
    return used < 0 || used >= this.#entries - this.#reserve;
  }

  /** The vCPU writes; KVM logs the first write to a page since it was armed, and every one that it emulates while it logs. */
  write(vcpu: number, slot: number, page: number, value: number, emulated = false): void {
    (this.memory[slot] as Float64Array)[page] = value;
    const armed = this.#armed[slot] as Uint8Array;
    if (armed[page] === 0 && !(emulated && this.#logging)) return;
    armed[page] = 0;
    const ring = this.rings[vcpu] as Int32Array;
    if ((this.#dirty[vcpu] as number) - (this.#reset[vcpu] as number) >= this.#entries) this.overwritten = true;
    const at = ((this.#dirty[vcpu] as number) % this.#entries) * 4;
    ring.set([DIRTY, slot, page, 0], at);
    this.#dirty[vcpu] = (this.#dirty[vcpu] as number) + 1;
    if ((this.#dirty[vcpu] as number) - (this.#reset[vcpu] as number) >= this.#entries) this.brim = true;
  }

  /** KVM_RESET_DIRTY_RINGS. */
  reset(): number {
    this.beforeReset();
    const most = this.interrupted.shift() ?? Number.POSITIVE_INFINITY;
    let count = 0;
    for (const [vcpu, ring] of this.rings.entries()) {
      for (; count < most; count++) {
        const at = ((this.#reset[vcpu] as number) % this.#entries) * 4;
        if (((ring[at] as number) & RESET) === 0) break;
        (this.#armed[ring[at + 1] as number] as Uint8Array)[ring[at + 2] as number] = 1;
        ring[at] = 0;
        this.#reset[vcpu] = (this.#reset[vcpu] as number) + 1;
      }
    }
    return count;
  }

  /** Logging begins: every page is armed. */
  armAll(): void {
    this.#logging = true;
    for (const armed of this.#armed) armed.fill(1);
  }

  /** Logging ends: nothing is logged. */
  disarmAll(): void {
    this.#logging = false;
    for (const armed of this.#armed) armed.fill(0);
  }
}
