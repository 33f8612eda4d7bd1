import type { OwnershipAuthority, Transfer } from '@godwit/core';
import type { Random } from '../fuzz/random.js';
import { type HostProcess, never } from './host-process.js';

type LeaseCall = 'transfer' | 'withdraw' | 'mayRun';

/** A fault of one call. Except for `refused` and `request lost` the call takes effect, late or with its answer lost. */
export interface LeaseFault {
  readonly call: LeaseCall;
  readonly nth: number;
  readonly how: 'late' | 'answer lost' | 'request lost' | 'silent' | 'refused';
  readonly ms: number;
}

export function randomLease(random: Random): LeaseFault[] {
  return Array.from({ length: random.pick([0, 0, 1, 1, 2]) }, () => ({
    call: random.pick(['transfer', 'transfer', 'withdraw', 'mayRun'] as const),
    nth: random.pick([1, 1, 1, 2]),
    how: random.pick(['late', 'late', 'answer lost', 'answer lost', 'request lost', 'silent', 'refused'] as const),
    ms: random.pick([10, 100, 700, 3000]),
  }));
}

/**
 * An ownership authority outside both processes: the guest has one owner at any time. Requests and answers may be late or lost, as
 * over a network.
 */
export class Lease {
  /** The incarnation of the destination that owns the guest; `undefined`: the first source owns it. */
  #owner: string | undefined;
  readonly #withdrawn = new Set<string>();
  readonly #faults: readonly LeaseFault[];
  readonly #calls: Record<LeaseCall, number> = { transfer: 0, withdraw: 0, mayRun: 0 };
  readonly #note: (text: string) => void;

  constructor(faults: readonly LeaseFault[], note: (text: string) => void) {
    this.#faults = faults;
    this.#note = note;
  }

  /** Whether a fault keeps a process from ever getting an answer. */
  silenced = false;

  /** The lease as `process` reaches it. */
  for(process: HostProcess): OwnershipAuthority {
    return {
      transfer: (transfer: Transfer) =>
        this.#answer(process, 'transfer', transfer, () => {
          if (this.#withdrawn.has(nameOf(transfer))) return 'refused' as const;
          this.#owner = transfer.incarnation;
          return 'granted' as const;
        }),
      withdraw: (transfer: Transfer) =>
        this.#answer(process, 'withdraw', transfer, () => {
          if (this.#owner === transfer.incarnation) return 'granted' as const;
          this.#withdrawn.add(nameOf(transfer));
          return 'withdrawn' as const;
        }),
      mayRun: (transfer: Transfer, role: 'source' | 'destination') =>
        this.#answer(process, 'mayRun', transfer, () =>
          role === 'source' ? this.#owner !== transfer.incarnation : this.#owner === transfer.incarnation,
        ),
    };
  }

  /** Gives the guest to another owner, as an operator does when its owner is dead. */
  seize(incarnation: string | undefined): void {
    this.#owner = incarnation;
  }

  async #answer<T>(process: HostProcess, call: LeaseCall, transfer: Transfer, act: () => T): Promise<T> {
    if (!process.alive) return never();
    const nth = ++this.#calls[call];
    const fault = this.#faults.find((one) => one.call === call && one.nth === nth);
    this.#note(`lease: ${call} ${transfer.attempt} by ${process.name}${fault === undefined ? '' : `: ${fault.how}`}`);
    switch (fault?.how) {
      case 'late':
        // The request takes effect late: a withdrawal may have come first.
        await process.delay(fault.ms);
        break;
      case 'request lost':
        throw new Error('the authority cannot be reached');
      case 'answer lost':
        act();
        throw new Error('the authority has not answered');
      case 'silent':
        act();
        this.silenced = true;
        return never();
      case 'refused':
        if (call === 'transfer') {
          this.#withdrawn.add(nameOf(transfer));
          return 'refused' as T;
        }
        break;
    }
    await process.delay(0.2);
    return act();
  }
}

function nameOf({ migrationId, attempt, incarnation }: Transfer): string {
  return `${migrationId} ${attempt} ${incarnation}`;
}
