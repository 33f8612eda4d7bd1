import type { MigratableVm } from '../device/migratable-vm.js';
import { GodwitError } from '../errors.js';
import type { GuestMemory, RamBlock } from '../memory/guest-memory.js';
import { overlap } from '../memory/memory-identity.js';
import { checkNothingShared } from '../protocol/shared-memory.js';
import { keysOf, type Part, sharedPart } from './claimed-parts.js';

/**
 * How a VM takes part in a migration.
 *
 * ```
 * idle -> outgoing -> idle                      the guest stayed, or the embedder recovered it
 *            |
 *            +-----> handed over -> idle        only by `reclaim`
 * idle -> arriving -> idle                      the guest runs here, or was abandoned
 * ```
 */
export type ClaimState = 'idle' | 'outgoing' | 'arriving' | 'handedOver';

/** The result of `claimOf`. */
export interface ClaimStatus {
  readonly state: ClaimState;
  /** The migration that holds the VM, or handed it over; `undefined` when it is idle. */
  readonly migrationId: string | undefined;
  /** Calls of the migration that have not returned yet: `resume() of the VM`, `stop() of the dirty tracker "kvm"`. */
  readonly waitingFor: readonly string[];
  /** Resolves when the VM can be claimed: at once when it is idle, never while it is handed over. */
  readonly free: Promise<void>;
}

/** What a refusal says about the migration that wants a claim. */
interface Taker {
  readonly state: 'outgoing' | 'arriving';
  readonly migrationId: string;
}

/** The claims of migrations under way. A claim whose VM was handed over is only in the weak maps, so that the VM can be collected. */
const held = new Set<Claim>();
const handedOver = new WeakMap<object, Claim>();
/**
 * Memory that was handed over, by its identity. The entry is void once the memory object is gone: another file may then have the same
 * identity.
 */
const handedOverMemory = new Map<string, { readonly memory: WeakRef<GuestMemory>; readonly range: Part['range'] }>();

/**
 * The claim of one migration on a VM. The VM object, its memory (with all that maps the same memory) and its trackers are claimed for
 * both directions; its devices only for the claim's own direction, since one stateless device object may serve both ends. Trackers and
 * memory are touched only under a claim. Both ends of one migration may claim memory that both declare shared.
 *
 * A claim is taken before the VM is touched, and ends when everything of the migration has stopped: a call that hangs keeps the claim, and
 * refusals name the call.
 */
export class Claim {
  readonly migrationId: string;
  readonly #memory: WeakRef<GuestMemory>;
  readonly #parts: ReadonlyMap<Part['key'], Part>;
  #state: ClaimState;
  #ending = false;
  /** The claim of the other end of this migration, if that end is in this process and shares memory with this claim's VM. */
  #otherEnd: Claim | undefined;
  #letGo = false;
  readonly #waitingFor = new Map<symbol, string>();
  #markFree: () => void = () => {};
  readonly free: Promise<void>;

  private constructor(vm: MigratableVm, parts: readonly Part[], state: 'outgoing' | 'arriving', migrationId: string) {
    this.#memory = new WeakRef(vm.memory);
    this.#parts = new Map(parts.map((part) => [part.key, part]));
    this.#state = state;
    this.migrationId = migrationId;
    this.free = new Promise((resolve) => {
      this.#markFree = resolve;
    });
  }

  /** Claims a VM. Throws `GODWIT_CLAIMED` or `GODWIT_HANDED_OVER`, and touches nothing, when another migration has any part of it. */
  static take(vm: MigratableVm, state: 'outgoing' | 'arriving', migrationId: string): Claim {
    const parts = keysOf(vm, state);
    const taker = { state, migrationId };
    const other = holderOf(parts, taker);
    if (other !== undefined) throw refused(other.claim, other.part, state);
    const claim = new Claim(vm, parts, state, migrationId);
    for (const end of held) {
      if (!end.isOtherEndOf(taker) || !parts.some(({ shared }) => shared)) continue;
      claim.#otherEnd = end;
      end.#otherEnd = claim;
    }
    held.add(claim);
    return claim;
  }

  get state(): ClaimState {
    return this.#state;
  }

  get waitingFor(): readonly string[] {
    return [...this.#waitingFor.values()];
  }

  /** Keeps the claim at least until `work` has settled, however the migration ends. `what` names the work in refusals. */
  keepUntil(work: Promise<unknown>, what: string): void {
    const key = Symbol(what);
    this.#waitingFor.set(key, what);
    const done = () => {
      this.#waitingFor.delete(key);
      this.#endIfDone();
    };
    work.then(done, done);
  }

  /** Ends the claim: the VM becomes idle once everything that was given to `keepUntil` has settled. */
  end(): void {
    this.#ending = true;
    this.#endIfDone();
  }

  /** Marks the VM as handed over, since its guest is or may be at the destination: it cannot be migrated before `reclaim`. */
  handOver(): void {
    this.#state = 'handedOver';
    held.delete(this);
    for (const { key, shared, range } of this.#parts.values()) {
      // Shared memory has not left: the VM at the other end, in this process, uses the same memory.
      if (shared && this.#otherEnd !== undefined) continue;
      if (typeof key === 'object') handedOver.set(key, this);
      else handedOverMemory.set(key, { memory: this.#memory, range });
    }
  }

  /** Notes that nothing of the migration touches the VM's memory any more: the owner of the memory may free it. */
  letGo(): void {
    this.#letGo = true;
  }

  /** Whether memory of this claim, or a block of it, must not be changed, because the migration may touch it. */
  holds(memory: GuestMemory | RamBlock): boolean {
    return !this.#letGo && this.#parts.has(memory);
  }

  isOtherEndOf({ state, migrationId }: Taker): boolean {
    return migrationId === this.migrationId && state !== this.#state;
  }

  /** Takes back a VM that this migration handed over: the migration is settled, or the embedder has recovered it. */
  takeBack(): void {
    for (const key of this.#parts.keys()) {
      if (typeof key !== 'object') handedOverMemory.delete(key);
      else if (handedOver.get(key) === this) handedOver.delete(key);
    }
    this.#state = 'outgoing';
    held.add(this);
  }

  /** The first of `parts` that this claim has too and that `taker` must not have at the same time. */
  shares(parts: readonly Part[], taker?: Taker): Part | undefined {
    return sharedPart(this.#parts, parts, taker !== undefined && this.isOtherEndOf(taker));
  }

  #endIfDone(): void {
    if (!this.#ending || this.#waitingFor.size > 0 || this.#state === 'handedOver') return;
    this.#state = 'idle';
    held.delete(this);
    this.#markFree();
  }
}

/**
 * The claim on `vm`: `migrate` and `receive` would be refused unless it is `idle`. Touches nothing.
 *
 * @example
 * migration.cancel();
 * await migration.result.catch(() => {});
 * await claimOf(vm).free; // everything of it has stopped: the VM can be migrated again
 */
export function claimOf(vm: MigratableVm): ClaimStatus {
  const parts = keysOf(vm, 'outgoing');
  // The VM, its memory and its trackers are looked up before its devices: a migration of the other direction may claim a device.
  const whole = parts.filter(({ direction }) => direction === undefined);
  const own = parts.filter(({ key }) => key === vm);
  const claim = (holderOf(own) ?? holderOf(whole) ?? holderOf(parts) ?? holderOf(keysOf(vm, 'arriving')))?.claim;
  if (claim === undefined) return { state: 'idle', migrationId: undefined, waitingFor: [], free: Promise.resolve() };
  const { state, migrationId, waitingFor, free } = claim;
  return { state, migrationId, waitingFor, free };
}

/**
 * Makes a VM that was handed over free to migrate again, since the caller knows that its guest does not run at the destination. If the
 * caller is wrong, the guest may run on both sides. Throws `GODWIT_INVALID_STATE` for a VM that was not handed over,
 * `GODWIT_SHARED_MEMORY` for one with shared blocks, which the destination's guest may have written, and `GODWIT_INVALID_ARGUMENT` for an
 * empty reason.
 *
 * @example
 * reclaim(vm, { because: 'the guest at the destination was shut down' });
 */
export function reclaim(vm: MigratableVm, { because }: { readonly because: string }): void {
  if (typeof because !== 'string' || because.trim() === '') {
    throw new GodwitError(
      'GODWIT_INVALID_ARGUMENT',
      'reclaim() needs { because: "..." }: the reason, which must not be empty',
    );
  }
  const claim = holderOf(keysOf(vm, 'outgoing'))?.claim;
  if (claim?.state !== 'handedOver') {
    throw new GodwitError(
      'GODWIT_INVALID_STATE',
      `the VM was not handed over (it is "${claim?.state ?? 'idle'}"): there is nothing to reclaim`,
    );
  }
  checkNothingShared(vm.memory, 'reclaim()');
  claim.takeBack();
  claim.end();
}

/**
 * For the owner of guest memory, before it adds or removes a block, changes the size of one, or unmaps it: throws `GODWIT_CLAIMED`,
 * naming the migration, while a migration in this process (and thread) uses `memory`, which may be a block of it. The engine has looked at
 * the blocks when the migration began, and touches their views until its claim has ended; at a destination, until it calls `abandon`.
 * `change` says in the message what was to be done: `"add a RAM block"`.
 *
 * @example
 * plug(dimm: RamBlock) {
 *   assertMayChange(this.memory, 'add a RAM block'); // GODWIT_CLAIMED: again once claimOf(vm).free has resolved
 *   this.memory = { ...this.memory, blocks: [...this.memory.blocks, dimm] };
 * }
 */
export function assertMayChange(memory: GuestMemory | RamBlock, change: string): void {
  for (const claim of held) {
    if (!claim.holds(memory)) continue;
    throw new GodwitError(
      'GODWIT_CLAIMED',
      `cannot ${change}: migration ${claim.migrationId}, which is ${claim.state === 'arriving' ? 'still arriving' : 'under way'}, uses ` +
        'this memory. Cancel the migration or wait for its end: claimOf(vm).free resolves when nothing uses the memory',
    );
  }
}

function holderOf(parts: readonly Part[], taker?: Taker): { readonly claim: Claim; readonly part: Part } | undefined {
  for (const part of parts) {
    const claim = typeof part.key === 'object' ? handedOver.get(part.key) : handedOverBy(part);
    if (claim?.shares([part]) !== undefined) return { claim, part };
  }
  for (const claim of held) {
    const part = claim.shares(parts, taker);
    if (part !== undefined) return { claim, part };
  }
  return undefined;
}

function handedOverBy({ key, range }: Part): Claim | undefined {
  for (const [identity, entry] of handedOverMemory) {
    if (identity !== key && !(range && entry.range && overlap(range, entry.range))) continue;
    const memory = entry.memory.deref();
    if (memory?.blocks.some((block) => block.identity === identity)) return handedOver.get(memory);
    handedOverMemory.delete(identity);
  }
  return undefined;
}

function refused(
  { state, migrationId, waitingFor }: Claim,
  { what }: Part,
  wanted: 'outgoing' | 'arriving',
): GodwitError {
  if (state === 'handedOver') {
    return new GodwitError(
      'GODWIT_HANDED_OVER',
      `${what} was handed over by migration ${migrationId}: its guest is at the destination, or may be. Nothing was touched. ` +
        'If it is certain that the guest does not run there, call reclaim(vm, { because })',
    );
  }
  const why =
    waitingFor.length > 0
      ? `which has not stopped: ${waitingFor.join(', ')} has not returned`
      : state === 'arriving'
        ? 'which is still arriving'
        : 'which is under way';
  return new GodwitError(
    'GODWIT_CLAIMED',
    `${what} is taken by migration ${migrationId}, ${why}; this ${wanted === 'outgoing' ? 'migrate()' : 'receive()'} has touched nothing. ` +
      'claimOf(vm).free resolves when it can be taken',
  );
}
