import type { FaultStatus, IncomingEvent, IncomingState, IncomingStatus } from '@godwit/core';
import { destinationLine } from './event-text.js';
import type { DestinationModel, FaultsModel, Known, PageCounts, PlainError, StateMachine } from './migration-model.js';
import { known, plainError, shortened } from './plain.js';
import { StateHistory } from './role-states.js';

/** The states that usually follow each state; a state that is not listed is shown too. */
const NEXT: Readonly<Record<IncomingState, readonly IncomingState[]>> = {
  none: ['setup', 'failed'],
  setup: ['active', 'failed'],
  active: ['device', 'failed'],
  device: ['active', 'postcopy-active', 'completed', 'failed'],
  'postcopy-active': ['postcopy-paused', 'completed', 'failed'],
  'postcopy-paused': ['postcopy-recover', 'failed'],
  'postcopy-recover': ['postcopy-active', 'postcopy-paused', 'failed'],
  completed: [],
  failed: [],
};

/** The states of a destination. */
export const DESTINATION_MACHINE: StateMachine = { states: Object.keys(NEXT), next: NEXT };

/** Folds the destination's events, and `status()` if there is one, into its part of the model. */
export class DestinationSide {
  readonly #states = new StateHistory(DESTINATION_MACHINE, 'none');
  #ownership = 'receiving';
  #id: string | null = null;
  #peer: string | null = null;
  #round = 0;
  #pages: PageCounts = {};
  #wireBytes = 0;
  #faults: FaultsModel | null = null;
  #loadMs: Known = null;
  #resumeMs: Known = null;
  #error: PlainError | null = null;
  #over = false;

  constructor() {
    this.#states.enter('none', 0);
  }

  get ownership(): string {
    return this.#ownership;
  }

  get over(): boolean {
    return this.#over;
  }

  /** Takes an event; returns its line of the log. */
  take(event: IncomingEvent, atMs: number): ReturnType<typeof destinationLine> {
    switch (event.type) {
      case 'status':
        this.status(event.status, atMs);
        break;
      case 'state':
        this.#states.enter(event.state, atMs);
        break;
      case 'ownership':
        this.#ownership = event.ownership;
        break;
      case 'hello':
        this.#id = event.migrationId;
        this.#peer = shortened(event.peer);
        break;
      case 'round':
        this.#round = event.round;
        break;
      case 'progress':
        this.#pages = { ...event.pages };
        this.#wireBytes = event.wireBytes;
        break;
      case 'running':
        this.#resumeMs = event.resumeMs;
        break;
      case 'faults':
        this.#faults = faultsModel(event.faults);
        break;
      case 'completed':
        this.#over = true;
        this.#round = event.summary.rounds;
        this.#pages = { ...event.summary.pages };
        this.#wireBytes = event.summary.wireBytes;
        this.#loadMs = event.summary.loadMs;
        this.#resumeMs = event.summary.resumeMs;
        if (event.summary.faults !== undefined) this.#faults = faultsModel(event.summary.faults);
        break;
      case 'failed':
        this.#over = true;
        this.#error = plainError(event.error);
        break;
      default:
    }
    return destinationLine(event);
  }

  /** Takes the current status. */
  status(status: IncomingStatus, atMs: number): void {
    this.#states.enter(status.state, atMs);
    this.#ownership = status.ownership;
    this.#id = status.migrationId ?? null;
    this.#pages = { ...status.pages };
    this.#wireBytes = status.wireBytes;
    if (!this.#over) this.#round = status.round;
    if (status.faults !== undefined) this.#faults = faultsModel(status.faults);
    if (status.error !== undefined) this.#error = plainError(status.error);
  }

  model(): DestinationModel {
    return {
      id: this.#id,
      peer: this.#peer,
      states: this.#states.model(),
      ownership: this.#ownership,
      round: this.#round,
      pages: this.#pages,
      wireBytes: this.#wireBytes,
      faults: this.#faults,
      loadMs: this.#loadMs,
      resumeMs: this.#resumeMs,
      error: this.#error,
    };
  }
}

function faultsModel(faults: FaultStatus): FaultsModel {
  const { blocked, remainingMs, latencyDistribution, ...counts } = faults;
  return {
    ...counts,
    latencyDistribution: [...latencyDistribution],
    worstBlockedUs: blocked.reduce((most, { blockedUs }) => Math.max(most, blockedUs), 0),
    blockedThreads: blocked.length,
    remainingMs: known(remainingMs),
  };
}
