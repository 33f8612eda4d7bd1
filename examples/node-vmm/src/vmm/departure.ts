import {
  type AdjustableOptions,
  type ConvergencePolicy,
  GodwitError,
  type LinkConnector,
  type MigrateOptions,
  type Migration,
  migrate,
  type PresetName,
} from '@godwit/core';
import { type EncodingName, encodingsOf } from './encodings.js';
import type { HostedGuest } from './hosted-guest.js';
import { policyNamed } from './policies.js';

/**
 * The settings of a move of a guest. Settings that are not given have the engine's defaults; with `postcopy` the policy is `hybrid` where
 * none is given.
 */
export interface DepartureSettings
  extends Pick<
    MigrateOptions,
    | 'background'
    | 'bandwidthLimit'
    | 'checksum'
    | 'connectTimeoutMs'
    | 'downtimeLimitMs'
    | 'pageChannels'
    | 'pauseLimitMs'
    | 'policy'
    | 'postcopy'
    | 'postcopyBandwidth'
    | 'reconnectTimeoutMs'
    | 'settleTimeoutMs'
    | 'timeBudgetMs'
    | 'verify'
  > {
  readonly encodings?: readonly EncodingName[];
  /** With false the guest is paused while its memory moves. Default true. */
  readonly live?: boolean;
}

/** The settings that may be changed while a guest is moved. */
export interface Adjustment extends AdjustableOptions {
  readonly policy?: PresetName;
}

/**
 * The place of a guest: `here`, at the source, running unless its user had paused it; `there`, at the destination, also while pages
 * follow; `unknown`: paused here, and the destination may run it; `ended`: it has crashed or ended.
 */
export type Whereabouts = 'here' | 'there' | 'unknown' | 'ended';

/** The states in which the guest runs at the destination and pages are missing there. */
const FOLLOWING: ReadonlySet<Migration['state']> = new Set(['postcopy-active', 'postcopy-paused', 'postcopy-recover']);

const WHEREABOUTS: Readonly<Record<Migration['ownership'], Whereabouts>> = {
  running: 'here',
  paused: 'here',
  kept: 'here',
  recovered: 'here',
  transferring: 'unknown',
  handedOver: 'unknown',
  unknown: 'unknown',
  released: 'there',
};

/** A migration of a VMM's guest to a destination or a snapshot. It begins at once; `migration` has its events and its result. */
export class Departure {
  readonly migration: Migration;
  /** The destination's address, or a snapshot's. */
  readonly to: string;
  readonly #guest: HostedGuest;
  readonly #postcopy: boolean;
  #policy: ConvergencePolicy;

  /** @throws GodwitError GODWIT_INVALID_ARGUMENT for an impossible setting, GODWIT_UNSUPPORTED for an encoding that Node does not have */
  constructor(guest: HostedGuest, connector: LinkConnector, to: string, settings: DepartureSettings) {
    const { postcopy = false, encodings = [], live = true, ...others } = settings;
    const { policy = postcopy ? 'hybrid' : 'balanced', ...options } = others;
    if (postcopy && !live) {
      throw invalid('by post-copy the guest stands still for none of its memory, and without "live" for all of it');
    }
    // A background snapshot has no policy and no encodings.
    const decided = options.background === undefined;
    this.#guest = guest;
    this.#postcopy = postcopy;
    this.#policy = this.#policyOf(policy);
    this.to = to;
    this.migration = migrate(guest.vm, connector, {
      ...options,
      description: guest.description,
      // The policy is called through the field, so that `adjust` can replace it.
      ...(decided && {
        postcopy,
        policy: (input: Parameters<ConvergencePolicy>[0]) => this.#policy(input),
        encodings: encodingsOf(encodings),
      }),
    });
    // Without `live` the guest is paused in the middle of round 1, until the rest was sent.
    if (!live && this.migration.state === 'none') this.migration.switchOver({ force: true });
  }

  /** Whether the migration is still under way. */
  get underWay(): boolean {
    return !['completed', 'failed', 'cancelled'].includes(this.migration.state);
  }

  /** Whether the guest runs at the destination and needs pages that are only here. */
  get isFollowed(): boolean {
    return this.migration.ownership === 'handedOver' && FOLLOWING.has(this.migration.state);
  }

  get whereabouts(): Whereabouts {
    if (this.isFollowed) return 'there';
    const where = WHEREABOUTS[this.migration.ownership];
    return where === 'here' && this.#guest.vm.runState?.() === 'ended' ? 'ended' : where;
  }

  /** Changes limits and policy; they apply at once. @throws GodwitError GODWIT_INVALID_ARGUMENT, and nothing is changed */
  adjust({ policy, ...limits }: Adjustment): void {
    const next = policy === undefined ? this.#policy : this.#policyOf(policy);
    const before = this.#policy;
    this.#policy = next;
    try {
      this.migration.adjust(limits);
    } catch (error) {
      this.#policy = before;
      throw error;
    }
  }

  /** `hybrid` goes on as post-copy, on which the two sides have to agree before the first page. */
  #policyOf(policy: ConvergencePolicy | PresetName): ConvergencePolicy {
    if (policy === 'hybrid' && !this.#postcopy) {
      throw invalid('the policy "hybrid" goes on as post-copy, which takes "postcopy" from the beginning');
    }
    return policyNamed(policy);
  }
}

function invalid(message: string): GodwitError {
  return new GodwitError('GODWIT_INVALID_ARGUMENT', message);
}
