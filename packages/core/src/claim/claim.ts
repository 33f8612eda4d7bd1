import type { MigratableVm } from '../device/migratable-vm.js';
import { GodwitError } from '../errors.js';
import type { GuestMemory } from '../memory/guest-memory.js';
import { keysOf, type Part, sharedPart } from './claimed-parts.js';

/**
 * Which migration a VM takes part in.
 *
 * ```
 * idle -> outgoing -> idle                      it stayed, or the embedder recovered it
 *            |
 *            +-----> handed over -> idle        only by `reclaim`
 * idle -> arriving -> idle                      it runs here, or was abandoned
 * ```
 */
export type ClaimState = 'idle' | 'outgoing' | 'arriving' | 'handedOver';

/** What `claimOf` tells. */
export interface ClaimStatus {
  readonly state: ClaimState;
  /** The migration that holds the VM, or handed it over; `undefined` when it is idle. */
  readonly migrationId: string | undefined;
  /** What of an ended migration has not stopped yet: `resume() of the VM`, `stop() of the dirty tracker "kvm"`. */
  readonly waitingFor: readonly string[];
  /** Resolves when the VM can be claimed: at once when it is idle, never while it is handed over. */
  readonly free: Promise<void>;
}

/** Claims that are held. One that handed its VM over is kept only as long as somebody else knows the VM. */
const held = new Set<Claim>();
const handedOver = new WeakMap<object, Claim>();
/** Memory that was handed over, by its name; a name that nothing bears any more may be another file's by now. */
const handedOverMemory = new Map<string, WeakRef<GuestMemory>>();

/**
 * One migration's hold on a VM: the VM object, its memory with all that maps the same, and its trackers, wholly; its devices for
 * its own direction (one stateless device object may stand for both ends). Trackers and memory are touched only under it.
 *
 * Taken before anything is touched, and given back when everything of the migration has stopped: what still hangs keeps it, by
 * name.
 */
export class Claim {
  readonly migrationId: string;
  readonly #memory: WeakRef<GuestMemory>;
  readonly #parts: ReadonlyMap<Part['key'], Part>;
  #state: ClaimState;
  #ending = false;
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

  /** Throws `GODWIT_CLAIMED` or `GODWIT_HANDED_OVER`, and touches nothing, when any part of the VM is another migration's. */
  static take(vm: MigratableVm, state: 'outgoing' | 'arriving', migrationId: string): Claim {
    const parts = keysOf(vm, state);
    const other = holderOf(parts);
    if (other !== undefined) throw refused(other.claim, other.part, state);
    const claim = new Claim(vm, parts, state, migrationId);
    held.add(claim);
    return claim;
  }

  get state(): ClaimState {
    return this.#state;
  }

  get waitingFor(): readonly string[] {
    return [...this.#waitingFor.values()];
  }

  /** The claim lasts at least until `work` has settled, however the migration ends. `what` names it in refusals. */
  keepUntil(work: Promise<unknown>, what: string): void {
    const key = Symbol(what);
    this.#waitingFor.set(key, what);
    const done = () => {
      this.#waitingFor.delete(key);
      this.#endIfDone();
    };
    work.then(done, done);
  }

  /** The migration is over, and the VM is nobody else's: idle once everything that `keepUntil` knows has settled. */
  end(): void {
    this.#ending = true;
    this.#endIfDone();
  }

  /** The guest is at the destination, or may be: nobody migrates this VM again before `reclaim`. */
  handOver(): void {
    this.#state = 'handedOver';
    held.delete(this);
    for (const key of this.#parts.keys()) {
      if (typeof key === 'object') handedOver.set(key, this);
      else handedOverMemory.set(key, this.#memory);
    }
  }

  /** From handed over back to this migration, which asks the destination again, or recovers the guest. */
  takeBack(): void {
    for (const key of this.#parts.keys()) {
      if (typeof key !== 'object') handedOverMemory.delete(key);
      else if (handedOver.get(key) === this) handedOver.delete(key);
    }
    this.#state = 'outgoing';
    held.add(this);
  }

  /** The part that both have, if there is one. */
  shares(parts: readonly Part[]): Part | undefined {
    return sharedPart(this.#parts, parts);
  }

  #endIfDone(): void {
    if (!this.#ending || this.#waitingFor.size > 0 || this.#state === 'handedOver' || this.#state === 'idle') return;
    this.#state = 'idle';
    held.delete(this);
    this.#markFree();
  }
}

/**
 * Which migration `vm` takes part in: what `migrate` and `receive` would find.
 *
 * @example
 * migration.cancel();
 * await migration.result.catch(() => {});
 * await claimOf(vm).free; // everything of it has stopped: the VM can be migrated again
 */
export function claimOf(vm: MigratableVm): ClaimStatus {
  const parts = keysOf(vm, 'outgoing');
  // A device may be in another migration, of the other direction: who has the VM itself comes first.
  const whole = parts.filter(({ direction }) => direction === undefined);
  const claim = (holderOf(whole) ?? holderOf(parts) ?? holderOf(keysOf(vm, 'arriving')))?.claim;
  if (claim === undefined) return { state: 'idle', migrationId: undefined, waitingFor: [], free: Promise.resolve() };
  const { state, migrationId, waitingFor, free } = claim;
  return { state, migrationId, waitingFor, free };
}

/**
 * Says that a VM which was handed over is this process's again, and why: its guest at the destination was stopped for good, say.
 * If that is wrong, the guest runs twice. Throws `GODWIT_INVALID_STATE` for a VM that was not handed over.
 *
 * @param reason in words for whoever reads the log later; must not be empty
 */
export function reclaim(vm: MigratableVm, { because }: { readonly because: string }): void {
  if (typeof because !== 'string' || because.trim() === '') {
    throw new GodwitError('GODWIT_INVALID_ARGUMENT', 'reclaim() wants { because: "..." }: say why, and be sure');
  }
  const claim = holderOf(keysOf(vm, 'outgoing'))?.claim;
  if (claim?.state !== 'handedOver') {
    throw new GodwitError(
      'GODWIT_INVALID_STATE',
      `the VM was not handed over (it is "${claim?.state ?? 'idle'}"): there is nothing to reclaim`,
    );
  }
  claim.takeBack();
  claim.end();
}

function holderOf(parts: readonly Part[]): { readonly claim: Claim; readonly part: Part } | undefined {
  for (const part of parts) {
    const claim = typeof part.key === 'object' ? handedOver.get(part.key) : handedOverBy(part.key);
    if (claim?.shares([part]) !== undefined) return { claim, part };
  }
  for (const claim of held) {
    const part = claim.shares(parts);
    if (part !== undefined) return { claim, part };
  }
  return undefined;
}

function handedOverBy(identity: string): Claim | undefined {
  const memory = handedOverMemory.get(identity)?.deref();
  if (memory?.blocks.some((block) => block.identity === identity)) return handedOver.get(memory);
  handedOverMemory.delete(identity);
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
        'If it is here for certain, say so with reclaim(vm, { because })',
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
