import {
  GodwitError,
  type IncomingMigration,
  type IncomingSummary,
  type LinkConnector,
  type ReceiveOptions,
  receive,
  reclaim,
} from '@godwit/core';
import { rehearse } from '@godwit/transport';
import {
  type ChannelThreads,
  channelThreads,
  pageChannelsFor,
  type WriteProtectionThreads,
  writeProtection,
} from '@godwit/workers';
import { Departure, type DepartureSettings } from './departure.js';
import { knownEncodings } from './encodings.js';
import type { GuestSpec, ImageSpec, LinuxSpec } from './guest-spec.js';
import { type GuestSurroundings, HostedGuest } from './hosted-guest.js';
import type { ListeningAt } from './links.js';

/** The settings with which a guest is received. Settings that are not given have the engine's defaults. */
export type ReceiveSettings = Pick<
  ReceiveOptions,
  'faults' | 'onArrival' | 'reconnectTimeoutMs' | 'run' | 'settleTimeoutMs'
>;

/**
 * A virtual machine monitor: at most one guest, which has booted here or arrived, and may move on. The demo's two host processes have one
 * each, and so has every `npm run vmm -- run` or `receive`.
 */
export class Vmm {
  readonly #surroundings: GuestSurroundings;
  #guest: HostedGuest | undefined;
  #arriving: HostedGuest | undefined;
  #listening: ListeningAt | undefined;
  #incoming: IncomingMigration | undefined;
  #departure: Departure | undefined;
  #protection: WriteProtectionThreads | undefined;
  #threads: ChannelThreads | undefined;
  #closing = false;

  constructor(surroundings: GuestSurroundings) {
    this.#surroundings = surroundings;
  }

  /** The guest that is here: also a paused one that was moved away, until `release`. */
  get guest(): HostedGuest | undefined {
    return this.#guest;
  }

  /** The migration that brings a guest here, or the last one. */
  get incoming(): IncomingMigration | undefined {
    return this.#incoming;
  }

  /** The migration that takes the guest away, or the last one. */
  get departure(): Departure | undefined {
    return this.#departure;
  }

  /** The address at which the VMM waits for a guest. */
  get address(): string | undefined {
    return this.#listening?.address;
  }

  /** The reason why a guest may be lost if this VMM ends; undefined when at most a guest that is here would be lost. */
  get atStake(): string | undefined {
    if (this.#departure?.isFollowed === true)
      return 'the guest runs at the destination, and needs pages that are only here';
    const isUnsettled = this.#departure?.whereabouts === 'unknown' || this.#incoming?.ownership === 'ready';
    return isUnsettled
      ? 'which side has the guest is not settled, and this may be the only one that has it'
      : undefined;
  }

  /** @throws GodwitError GODWIT_INVALID_STATE when there is no guest */
  requireGuest(): HostedGuest {
    if (this.#guest === undefined) throw new GodwitError('GODWIT_INVALID_STATE', 'there is no guest here');
    return this.#guest;
  }

  /** Builds a guest and runs it: the bundled guest, that of a flat image, or a Linux. */
  async boot(what: GuestSpec | ImageSpec | LinuxSpec): Promise<void> {
    this.#guest =
      what.kind === 'image' || what.kind === 'linux'
        ? await HostedGuest.bootOther(what, this.#surroundings)
        : await HostedGuest.boot(what, this.#surroundings);
    this.#getReady(this.#guest);
  }

  /** Waits for a guest on these links, which the VMM closes in the end; `receive` may be called again after a failed attempt. */
  listen(listening: ListeningAt): void {
    this.#listening = listening;
    rehearseQuietly();
  }

  /** Receives the next guest that comes. @throws GodwitError GODWIT_INVALID_STATE without `listen` */
  receive(settings: ReceiveSettings): IncomingMigration {
    if (this.#listening === undefined) {
      throw new GodwitError('GODWIT_INVALID_STATE', 'nothing listens for a guest here');
    }
    const restored = this.#listening.address.startsWith('file:');
    const incoming = receive(this.#listening.links, {
      ...settings,
      encodings: knownEncodings(),
      prepare: async (description) => {
        this.#arriving = await HostedGuest.arriving(description, { ...this.#surroundings, restored });
        return this.#arriving.vm;
      },
    });
    this.#incoming = incoming;
    incoming.subscribe((event) => {
      // A guest that runs at once is here before its memory is.
      if (event.type === 'running' || event.type === 'completed') this.#guest ??= this.#arriving;
    });
    return incoming;
  }

  /** Resolves when all of the guest of `receive` is here, and the listener is closed. */
  async arrival(): Promise<IncomingSummary> {
    if (this.#incoming === undefined) {
      throw new GodwitError('GODWIT_INVALID_STATE', 'no guest is awaited here: listen first');
    }
    try {
      const { summary } = await this.#incoming.result;
      await this.stopListening();
      if (this.#guest !== undefined) this.#getReady(this.#guest);
      return summary;
    } finally {
      this.#arriving = undefined;
    }
  }

  async stopListening(): Promise<void> {
    const { links } = this.#listening ?? {};
    this.#listening = undefined;
    await links?.close();
  }

  /**
   * Begins to move the guest.
   *
   * @throws GodwitError GODWIT_INVALID_STATE without a guest, GODWIT_CLAIMED while it is being moved, GODWIT_INVALID_ARGUMENT
   */
  depart(connector: LinkConnector, to: string, settings: DepartureSettings): Departure {
    const guest = this.requireGuest();
    const before = this.#departure;
    if (before?.underWay === true) {
      throw new GodwitError(
        'GODWIT_CLAIMED',
        `the guest is being moved to ${before.to}: wait for its end, or cancel it`,
      );
    }
    const departure = new Departure(guest, connector, to, settings);
    departure.migration.result.catch(() => this.#getReady(guest));
    this.#departure = departure;
    return departure;
  }

  /** Threads that wait for the page channels of the next move from here; none before a guest is here. */
  get threads(): ChannelThreads | undefined {
    return this.#threads;
  }

  /** The protection for snapshots of a guest that runs on; its threads are started for the first such snapshot. */
  get protection(): WriteProtectionThreads {
    this.#protection ??= writeProtection();
    return this.#protection;
  }

  /** Starts the threads for the next migration and rehearses it, while the guest runs. */
  #getReady({ vm }: HostedGuest): void {
    if (this.#closing) return;
    // One more than page channels: the urgent stream of a post-copy has a thread too.
    this.#threads ??= channelThreads(pageChannelsFor(vm.memory) + 1, { postcopy: true });
    void this.#threads.ready();
    rehearseQuietly();
  }

  /** Runs the guest on after a snapshot of it was saved. */
  async goOn(): Promise<void> {
    const guest = this.requireGuest();
    const { runState = 'running' } = (await this.#departure?.migration.result) ?? {};
    reclaim(guest.vm, { because: 'it was saved, and goes on beside its snapshot' });
    this.#departure = undefined;
    if (runState === 'running') await guest.resume();
  }

  /** Frees a guest that was moved away. */
  async release(): Promise<void> {
    const guest = this.#guest;
    this.#guest = undefined;
    const threads = this.#threads;
    this.#threads = undefined;
    await Promise.all([guest?.close(), threads?.close()]);
  }

  /** Cancels migrations where possible, waits for the end of all of them and frees everything. */
  async close(reason: string): Promise<void> {
    this.#closing = true;
    this.#departure?.migration.cancel(reason);
    this.#incoming?.cancel(reason);
    this.#incoming?.giveUpPages(reason);
    await Promise.allSettled([this.#departure?.migration.result, this.#incoming?.result]);
    await Promise.all([this.#protection?.close(), this.#threads?.close()]);
    const guests = new Set([this.#guest, this.#arriving]);
    await Promise.allSettled([...[...guests].map((guest) => guest?.close()), this.stopListening()]);
  }
}

/** Rehearses a migration. A failure is ignored: the first migration then only takes longer. */
function rehearseQuietly(): void {
  rehearse().catch(() => {});
}
