import type { Clock } from '../clock.js';
import type { MigratableVm } from '../device/migratable-vm.js';
import type { MigrationEvent } from '../migration-event.js';
import type { GuestPause } from './guest-pause.js';
import { VcpuSpread } from './vcpu-spread.js';

/** A vCPU's fraction is changed only when the difference is larger than this, since each change makes vCPUs leave the guest. */
const LEAST_CHANGE = 0.02;

/** The time and the throttled time up to a moment. */
export interface ThrottleMark {
  readonly at: number;
  readonly fractionMs: number;
}

export interface GuestThrottleParts {
  readonly vm: MigratableVm;
  readonly guest: GuestPause;
  readonly clock: Clock;
  /** The downtime limit now: no vCPU is held back for longer at a time. Milliseconds. */
  readonly longestMs: () => number;
  readonly emit: (event: MigrationEvent) => void;
}

/** The throttle that the VM was given last. */
interface Applied {
  readonly fraction: number;
  readonly longestMs: number;
  readonly vcpus: readonly number[] | undefined;
}

/**
 * Throttles the guest as the policy decides, and sets the throttle to 0 with every pause and at the end. The VM is not called while
 * `pause` or `resume` is pending; after an exception it is called only to set the throttle to 0.
 */
export class GuestThrottle {
  readonly #parts: GuestThrottleParts;
  #wanted = 0;
  #reason = '';
  #applied: Applied = { fraction: 0, longestMs: 0, vcpus: undefined };
  /** The reason why the VM is no longer throttled. */
  #failure: string | undefined;
  /** True after a call has thrown: the VM may still hold vCPUs back, whatever was applied. */
  #unsure = false;
  #over = false;
  #spread: VcpuSpread | undefined;
  #seesVcpus: boolean;
  #at: number;
  #fractionMs = 0;
  #heldMs = 0;

  constructor(parts: GuestThrottleParts) {
    this.#parts = parts;
    this.#seesVcpus = parts.vm.vcpuWrites !== undefined;
    this.#at = parts.clock.now();
  }

  /** Whether the VM can be throttled. */
  get available(): boolean {
    return this.#parts.vm.throttle !== undefined && this.#failure === undefined;
  }

  /** The reason why the VM cannot be throttled, in words. */
  get unavailable(): string {
    return this.#failure === undefined
      ? 'the VM has no `throttle`'
      : `\`throttle\` of the VM has failed: ${this.#failure}`;
  }

  /** The fraction in force, from 0 to 0.99. */
  get fraction(): number {
    return this.#applied.fraction;
  }

  /** How much the guest was slowed: the share of vCPUs' time for which they were held back, times milliseconds. */
  get throttledMs(): number {
    this.#count();
    return this.#heldMs;
  }

  /** The moment from which `meanSince` counts. */
  mark(): ThrottleMark {
    this.#count();
    return { at: this.#at, fractionMs: this.#fractionMs };
  }

  /** The mean fraction since the mark, weighted by time. */
  meanSince({ at, fractionMs }: ThrottleMark): number {
    this.#count();
    return this.#at > at ? (this.#fractionMs - fractionMs) / (this.#at - at) : this.fraction;
  }

  /** Sets the fraction for all times at which the guest runs, until the next decision. */
  decide(fraction: number, reason: string): void {
    if (this.#over || (fraction === this.#wanted && fraction === this.fraction)) return;
    this.#wanted = fraction;
    this.#reason = reason;
    this.refresh();
  }

  /**
   * Applies the decided fraction if the VM may be called. This is called often, since the writes of the vCPUs and the downtime limit
   * change.
   */
  refresh(): void {
    const { guest, vm } = this.#parts;
    if (this.#over || !this.available || guest.asked || !guest.quiet) return;
    if (this.#wanted === 0 && this.fraction === 0) return;
    if (this.#wanted === 0) {
      this.#apply(0, undefined, this.#reason);
      this.#spread = undefined;
      return;
    }
    this.#apply(this.#wanted, vm.vcpuWrites === undefined ? undefined : this.#vcpus(), this.#reason);
  }

  /** Sets the throttle to 0, since the guest is paused. The decided fraction applies again when the guest runs on at the source. */
  paused(): void {
    this.#letGo('the guest is paused');
  }

  /** Sets the throttle to 0 at the end of the migration, if the VM may be called now. Nothing is applied after that. */
  end(): void {
    this.#over = true;
    if (this.#parts.guest.quiet) this.#letGo('the migration is over');
  }

  /** True while the VM may still be throttled after `end`, because `pause` or `resume` was pending. */
  get holds(): boolean {
    return this.fraction > 0 || this.#unsure;
  }

  #letGo(reason: string): void {
    this.#spread = undefined;
    if (!this.holds) return;
    this.#apply(0, undefined, reason);
  }

  #apply(fraction: number, vcpus: readonly number[] | undefined, reason: string): void {
    const longestMs = Math.max(1, this.#parts.longestMs());
    const before = this.#applied;
    const same = fraction === before.fraction && longestMs === before.longestMs && alike(vcpus, before.vcpus);
    if (same && !this.#unsure) return;
    this.#count();
    try {
      this.#call(fraction, longestMs, vcpus);
    } catch (error) {
      this.#failed(error);
      return;
    }
    this.#unsure = false;
    this.#applied = { fraction, longestMs, vcpus };
    this.#tell(before.fraction, reason);
  }

  #call(fraction: number, longestMs: number, vcpus?: readonly number[]): void {
    const returned: unknown = this.#parts.vm.throttle?.(fraction, { longestMs, ...(vcpus !== undefined && { vcpus }) });
    // The compiler also accepts an async function as `throttle`, whose rejection must not end the process.
    if (returned instanceof Promise) returned.catch((error: unknown) => this.#failed(error));
  }

  #tell(previous: number, reason: string): void {
    const { fraction, vcpus } = this.#applied;
    if (fraction === previous) return;
    this.#parts.emit({ type: 'throttle', fraction, previous, reason, ...(vcpus !== undefined && { vcpus }) });
  }

  #failed(error: unknown): void {
    const message = error instanceof Error ? error.message : String(error);
    const first = this.#failure === undefined;
    this.#failure ??= message;
    this.#unsure = true;
    const { emit, guest } = this.#parts;
    const then = this.#over
      ? 'vCPUs may still be held back: call throttle(0) of the VM'
      : 'the guest is throttled no more, and the migration goes on';
    const warning = `\`throttle\` of the VM failed (${message}): ${then}`;
    if (first || this.#over) emit({ type: 'warning', code: 'GODWIT_VM_FAILED', message: warning });
    if (first && guest.quiet) this.#letGo('`throttle` of the VM failed');
  }

  /** The fraction of each vCPU; `undefined` when all vCPUs have the same fraction. */
  #vcpus(): readonly number[] | undefined {
    const writes = this.#writes();
    if (writes === undefined) return undefined;
    const now = this.#parts.clock.now();
    if (this.#spread === undefined) {
      // The first call returns earlier writes, which do not count: counting begins here.
      this.#spread = new VcpuSpread(now);
      return undefined;
    }
    const { fraction, vcpus } = this.#applied;
    this.#spread.sample(now, writes, (vcpu) => vcpus?.[vcpu] ?? fraction);
    return this.#spread.fractions(this.#wanted);
  }

  #writes(): readonly number[] | undefined {
    if (!this.#seesVcpus) return undefined;
    let writes: unknown;
    try {
      writes = this.#parts.vm.vcpuWrites?.();
    } catch (error) {
      writes = error;
    }
    const valid = (count: unknown) => typeof count === 'number' && count >= 0 && Number.isFinite(count);
    if (Array.isArray(writes) && writes.length > 0 && writes.every(valid)) return writes;
    this.#seesVcpus = false;
    const message = `\`vcpuWrites\` of the VM returned no counts (${String(writes)}): all vCPUs are throttled alike`;
    this.#parts.emit({ type: 'warning', code: 'GODWIT_VM_FAILED', message });
    return undefined;
  }

  /** Adds the throttled time since the last call. */
  #count(): void {
    const now = this.#parts.clock.now();
    const ms = now - this.#at;
    this.#at = now;
    const { fraction, vcpus } = this.#applied;
    this.#fractionMs += fraction * ms;
    const held = vcpus === undefined ? fraction : vcpus.reduce((sum, each) => sum + each, 0) / vcpus.length;
    this.#heldMs += held * ms;
  }
}

function alike(a: readonly number[] | undefined, b: readonly number[] | undefined): boolean {
  if (a === undefined || b === undefined) return a === b;
  return a.length === b.length && a.every((fraction, vcpu) => Math.abs(fraction - (b[vcpu] as number)) <= LEAST_CHANGE);
}
