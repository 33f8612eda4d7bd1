import type { GodwitError } from '../errors.js';
import type { DestinationOwnershipState } from '../ownership/destination-ownership.js';

/** How a migration ended here. */
export interface Outcome {
  readonly state: DestinationOwnershipState;
  /** Why, where it did not go well. */
  readonly reason: GodwitError | undefined;
  /** The source has heard of it: nobody will ask. */
  readonly told: boolean;
  readonly incarnation: string;
  readonly resumeMs: number;
  readonly sinceReadyMs: number;
}

/** Migrations whose source was told, and that are remembered all the same: the latest of them. */
const MOST_TOLD = 64;

/** Bytes that outcomes of which a source has not heard may take, as counted here. Beyond them the oldest are forgotten. */
export const MOST_UNTOLD_BYTES = 2 ** 20;

/** What an outcome takes beside its reason: the id, the state, the map's entry. */
const ENTRY_BYTES = 256;

/**
 * Migrations that are over and remembered, so that a source that missed the end can be told. One that nobody was told of is kept as
 * long as somebody may ask, within a bounded number of bytes.
 */
export class Outcomes {
  readonly #outcomes = new Map<string, Outcome>();
  #untoldBytes = 0;
  #told = 0;

  /** Whether some source may still ask. */
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

  /** The source of this migration has heard of it. */
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

/** Two bytes a character. */
function bytesOf({ reason }: Outcome): number {
  return ENTRY_BYTES + 2 * (reason?.message.length ?? 0);
}
