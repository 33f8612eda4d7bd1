import type { GodwitError } from '../errors.js';
import type { DestinationOwnershipState } from '../ownership/destination-ownership.js';

/** How a migration ended here. */
export interface Outcome {
  readonly state: DestinationOwnershipState;
  /** The error of a failed migration. */
  readonly reason: GodwitError | undefined;
  /** Whether the source was told the outcome: it will not ask again. */
  readonly told: boolean;
  readonly incarnation: string;
  readonly resumeMs: number;
  readonly sinceReadyMs: number;
}

/** Most outcomes that are kept although the source was told: the latest ones. */
const MOST_TOLD = 64;

/** Most bytes, as `bytesOf` counts, of outcomes that the source was not told. Beyond that the oldest are forgotten. */
export const MOST_UNTOLD_BYTES = 2 ** 20;

/** Bytes of an outcome without its reason: the id, the state, the map's entry. */
const ENTRY_BYTES = 256;

/**
 * Remembers how migrations ended here, so that a source that missed the end can be told. An outcome that the source was not told
 * is kept until the source asks, within a limit in bytes.
 */
export class Outcomes {
  readonly #outcomes = new Map<string, Outcome>();
  #untoldBytes = 0;
  #told = 0;

  /** Whether a source may still ask. */
  get awaited(): boolean {
    return this.#untoldBytes > 0;
  }

  get(migrationId: string): Outcome | undefined {
    return this.#outcomes.get(migrationId);
  }

  set(migrationId: string, outcome: Outcome): void {
    this.delete(migrationId);
    this.#outcomes.set(migrationId, outcome);
    if (outcome.told) this.#told++;
    else this.#untoldBytes += bytesOf(outcome);
    for (const [id, { told }] of this.#outcomes) {
      const tooMany = told ? this.#told > MOST_TOLD : this.#untoldBytes > MOST_UNTOLD_BYTES;
      if (tooMany) this.delete(id);
      if (this.#told <= MOST_TOLD && this.#untoldBytes <= MOST_UNTOLD_BYTES) break;
    }
  }

  delete(migrationId: string): void {
    const outcome = this.#outcomes.get(migrationId);
    if (outcome === undefined) return;
    this.#outcomes.delete(migrationId);
    if (outcome.told) this.#told--;
    else this.#untoldBytes -= bytesOf(outcome);
  }

  /** Notes that the source of this migration was told. */
  tell(migrationId: string): void {
    const outcome = this.#outcomes.get(migrationId);
    if (outcome !== undefined) this.set(migrationId, { ...outcome, told: true });
  }

  clear(): void {
    this.#outcomes.clear();
    this.#untoldBytes = 0;
    this.#told = 0;
  }
}

/** Counts two bytes for each character. */
function bytesOf({ reason }: Outcome): number {
  return ENTRY_BYTES + 2 * (reason?.message.length ?? 0);
}
