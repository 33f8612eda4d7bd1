import { lastValueFrom, tap } from 'rxjs';
import { abortable } from '../abortable.js';
import { DowntimeModel, totalDowntime } from '../convergence/downtime-model.js';
import type { MigratableVm } from '../device/migratable-vm.js';
import { SentEncodings } from '../encoding/sent-encodings.js';
import { GodwitError } from '../errors.js';
import { settledWithin } from '../in-time.js';
import { CLOSING_MS } from '../link/closing-message.js';
import type { LinkConnector } from '../link/migration-link.js';
import { checkGuestMemory } from '../memory/check-guest-memory.js';
import { MemoryWindows } from '../memory/memory-windows.js';
import { populatedBitmaps } from '../memory/populated-pages.js';
import type { MigrationEvent, MigrationState, MigrationSummary } from '../migration-event.js';
import type { Ownership } from '../ownership/ownership.js';
import type { SourceOwnershipEvent, SourceOwnershipState } from '../ownership/source-ownership.js';
import { allPages, type RoundRecord } from '../round-record.js';
import { TrackerUnion } from '../tracker/tracker-union.js';
import { BandwidthLimit } from './bandwidth-limit.js';
import { DeviceSender } from './device-sender.js';
import { compareTerms } from './downtime-terms.js';
import { GuestPause } from './guest-pause.js';
import { type Harvest, Harvester } from './harvester.js';
import type { ResolvedOptions } from './options.js';
import { describeSent, type PrecopyRound, precopyRounds } from './precopy-rounds.js';
import { ProgressMeter } from './progress.js';
import { DestinationRestarted, RoundTransfer } from './round-transfer.js';
import { ownershipUnknown, sayGo, settle } from './settlement.js';
import type { SourceConnection } from './source-connection.js';
import { SourceLinks } from './source-links.js';
import { type HandedOver, switchover } from './switchover.js';

/** How long a device that is still saving may take to notice that it is over, before the guest runs again: a cancel is to be felt at once. */
const SAVE_ENDS_MS = 40;

/** How long devices may take to let go of their state when it is over: a change of state in hardware, and some. */
const RELEASE_MS = 5000;

/** After `go`: no answer came, or one that the link may have garbled. Anything else is the last word of whatever carries it. */
const NO_ANSWER: readonly string[] = [
  'GODWIT_LINK_LOST',
  'GODWIT_TIMEOUT',
  'GODWIT_BAD_STREAM',
  'GODWIT_LIMIT_EXCEEDED',
  'GODWIT_PROTOCOL',
];

/** For an embedder who asks again, but has turned off asking. */
const SETTLE_MS = 30_000;

/** Round records kept: a migration that never converges must not fill memory with them. */
const MOST_RECORDS = 1000;

/** What a run needs of the `Migration` it belongs to. */
export interface SourceControls {
  readonly options: ResolvedOptions;
  readonly signal: AbortSignal;
  readonly stop: (error: GodwitError) => void;
  readonly emit: (event: MigrationEvent) => void;
  readonly state: () => MigrationState;
  readonly setState: (state: MigrationState) => void;
  readonly hold: () => Promise<void>;
  readonly ownership: Ownership<SourceOwnershipState, SourceOwnershipEvent>;
}

/** Pre-copy as it ended. */
interface Precopied {
  readonly harvester: Harvester;
  readonly last: PrecopyRound;
  readonly connection: SourceConnection;
}

/** One migration at its source, from connecting to `running`, and the way back when it fails. */
export class SourceRun {
  readonly #vm: MigratableVm;
  readonly #controls: SourceControls;
  readonly #limit: BandwidthLimit;
  readonly #meter: ProgressMeter;
  readonly #tracker: TrackerUnion;
  readonly #model: DowntimeModel;
  readonly #links: SourceLinks;
  readonly #guest: GuestPause;
  readonly #devices: DeviceSender;
  readonly #encodings: SentEncodings;
  #rounds: RoundRecord[] = [];
  /** The destination has said `welcome`: it knows of the migration. */
  #welcomed = false;
  /** Ends the asking after `go`. */
  #settling = new AbortController();

  constructor(vm: MigratableVm, connector: LinkConnector, controls: SourceControls) {
    const { options, signal, emit } = controls;
    this.#vm = vm;
    this.#controls = controls;
    this.#limit = new BandwidthLimit(options.clock, options.bandwidthLimit);
    this.#meter = new ProgressMeter(options.clock);
    this.#model = new DowntimeModel(options.prior, vm.memory.pageSize);
    this.#encodings = new SentEncodings(options.encodings, options.adaptiveEncodings);
    this.#links = new SourceLinks({ vm, connector, options, signal, emit, encodings: this.#encodings });
    this.#guest = new GuestPause(vm);
    this.#devices = new DeviceSender(vm.devices, signal);
    this.#tracker = new TrackerUnion(vm.trackers, (tracker, error) =>
      emit({
        type: 'warning',
        code: 'GODWIT_TRACKER_FAILED',
        message: `the dirty tracker "${tracker.name}" failed, so every page counts as dirty: ${String(error)}`,
      }),
    );
  }

  bandwidthLimitChanged(): void {
    this.#limit.bytesPerSecond = this.#controls.options.bandwidthLimit;
  }

  /** Resolves when the guest runs at the destination. Rejects otherwise; before `go` the guest then runs here again. */
  async execute(): Promise<MigrationSummary> {
    const over = new AbortController();
    const reporting = this.#reportProgress(over.signal);
    try {
      const summary = await this.#move().catch(async (error: unknown) => {
        throw await this.#fallBack(error);
      });
      // The guest runs at the destination: nothing that fails from here on may say otherwise.
      await this.#stopTracking();
      await this.#release();
      await this.#releaseDevices();
      return summary;
    } finally {
      over.abort();
      await reporting;
    }
  }

  /** From `unknown`: asks the destination again. Resolves when it runs the guest; rejects as the migration did, else. */
  async settleAgain(): Promise<void> {
    const { ownership } = this.#controls;
    ownership.apply('settle');
    this.#settling = new AbortController();
    try {
      await this.#settle(this.#controls.options.settleTimeoutMs || SETTLE_MS);
      await this.#release();
    } catch (error) {
      throw await this.#giveUp(error);
    }
  }

  /** The destination is dead, says the embedder: the guest runs here. */
  async recover(): Promise<void> {
    this.#controls.ownership.apply('recover');
    this.#settling.abort(
      new GodwitError(
        'GODWIT_RECOVERED',
        'the destination was declared dead while it was being asked whether it runs the guest; the guest runs here',
      ),
    );
    await this.#vm.resume();
  }

  async #move(): Promise<MigrationSummary> {
    const { options, signal, setState, ownership } = this.#controls;
    const { clock } = options;
    signal.throwIfAborted();
    setState('setup');
    checkGuestMemory(this.#vm.memory);
    if (this.#vm.trackers.length === 0) {
      throw new GodwitError(
        'GODWIT_INVALID_ARGUMENT',
        'the VM has no dirty tracker: what the guest writes meanwhile would be lost',
      );
    }
    const first = await this.#links.first();
    const windows = new MemoryWindows(this.#vm.memory);
    const rounds = this.#transfer(windows);
    rounds.start(first.connection, first.answer);
    this.#welcomed = true;

    // Logging starts before the first byte is read.
    await abortable(this.#tracker.start(), signal);
    this.#model.roundTrip(await rounds.ping());
    if (this.#controls.state() === 'setup') setState('active');

    const { harvester, last, connection } = await this.#precopy(rounds);
    const { record, pending } = last;
    const { control, sender, signal: lost } = connection;
    signal.throwIfAborted();
    let lastRound = record.round;
    const result = await switchover(pending, {
      vm: this.#vm,
      control,
      harvester,
      devices: this.#devices,
      windows,
      clock,
      signal: lost,
      verify: options.verify,
      maximumPayload: rounds.maximumPayload,
      timeoutMs: options.switchoverTimeoutMs,
      lastRound: () => lastRound,
      pause: () => {
        ownership.apply('pause');
        return this.#guest.pause(lost);
      },
      send: async (harvest) => {
        this.#roundStarted(++lastRound, harvest.dirtyPages);
        const sent = await sender.send(lastRound, harvest.bitmaps, harvest.dirtyPages, false);
        harvester.release(harvest.bitmaps);
        this.#model.sent(sent);
        this.#roundEnded({
          ...record,
          round: lastRound,
          phase: 'stop-and-copy',
          dirtyPages: harvest.dirtyPages,
          ...describeSent(sent),
          harvestMs: harvest.harvestMs,
          totalMs: sent.totalMs,
          linkBytesPerSecond: this.#model.linkBytesPerSecond,
          newlyDirtyPages: 0,
          trackers: [],
          dirtyPagesPerSecond: 0,
          decision: { action: 'switchover', reason: 'the guest is paused: these pages were left' },
        });
      },
      tracker: this.#tracker,
      hold: async () => {
        await this.#controls.hold();
        setState('device');
      },
      onVerified: (pages, verifyMs) => this.#controls.emit({ type: 'verified', pages, verifyMs }),
      handOver: () => this.#handOver(),
    });
    const { pages, savedBytes } = this.#meter.totals();
    return {
      migrationId: options.migrationId,
      totalMs: this.#meter.elapsedMs,
      downtimeMs: result.downtimeMs,
      predictedDowntimeMs: totalDowntime(record.prediction),
      downtime: compareTerms(record.prediction, result.terms),
      verifyMs: result.verifyMs,
      heldMs: result.heldMs,
      verified: options.verify,
      verifiedPages: result.verifiedPages,
      rounds: this.#rounds,
      pages,
      rawBytes: allPages(pages) * this.#vm.memory.pageSize,
      savedBytes,
      wireBytes: this.#links.wireBytes,
    };
  }

  #transfer(windows: MemoryWindows): RoundTransfer {
    const { options, signal, emit, setState, state } = this.#controls;
    return new RoundTransfer({
      links: this.#links,
      windows,
      devices: this.#devices,
      options,
      signal,
      encodings: this.#encodings,
      sender: {
        memory: this.#vm.memory,
        tracker: this.#tracker,
        limit: this.#limit,
        onBatch: (pages) => this.#meter.batchSent(pages),
      },
      emit,
      setState: (next) => {
        if (state() === 'setup') setState('active');
        setState(next);
      },
      onChannels: (connection) => {
        this.#meter.channels = connection?.channels ?? [];
      },
    });
  }

  /** Rounds until a policy decides otherwise; from the beginning, if the destination came back with nothing. */
  async #precopy(rounds: RoundTransfer): Promise<Precopied> {
    const { options, signal } = this.#controls;
    for (;;) {
      const harvester = new Harvester(this.#vm.memory, this.#tracker, options.clock);
      try {
        const first = await this.#populated(harvester);
        const last = await lastValueFrom(
          precopyRounds(first, {
            harvester,
            model: this.#model,
            clock: options.clock,
            signal,
            policy: options.policy,
            downtimeLimitMs: () => options.downtimeLimitMs,
            startedAt: this.#meter.startedAt,
            deviceBytes: () => this.#devices.stateBytes(),
            send: (round, harvest) => {
              this.#roundStarted(round, harvest.dirtyPages);
              return rounds.send(round, harvest, (ms) => this.#model.roundTrip(ms));
            },
          }).pipe(tap((round) => this.#roundEnded(round.record))),
        );
        const { decision } = last.record;
        if (decision.action === 'abort') throw notConverging(last.record);
        // A link that is known to be lost is made anew while the guest still runs.
        return { harvester, last, connection: await rounds.connected() };
      } catch (error) {
        if (!(error instanceof DestinationRestarted)) throw error;
        this.#rounds = [];
      }
    }
  }

  async #populated(harvester: Harvester): Promise<Harvest> {
    const { options, signal } = this.#controls;
    const bitmaps = harvester.take();
    const scanStart = options.clock.now();
    await populatedBitmaps(this.#vm.memory, bitmaps, options.clock);
    signal.throwIfAborted();
    const harvestMs = options.clock.now() - scanStart;
    return { bitmaps, dirtyPages: bitmaps.count(), trackers: [], harvestMs, sinceMs: 0 };
  }

  #roundStarted(round: number, pages: number): void {
    this.#meter.roundStarted(round, pages);
    this.#controls.emit({ type: 'round-start', round, dirtyPages: pages });
  }

  #roundEnded(record: RoundRecord): void {
    this.#rounds.push(record);
    if (this.#rounds.length > MOST_RECORDS) this.#rounds.shift();
    this.#meter.roundEnded(record);
    this.#controls.emit({ type: 'round', round: record });
  }

  /** The point of no return, and what comes after it until the destination is known to run the guest. */
  async #handOver(): Promise<HandedOver> {
    const { options, ownership, setState, emit } = this.#controls;
    const connection = this.#links.current;
    if (connection === undefined) throw new GodwitError('GODWIT_INTERNAL', 'no link to say "go" on');
    ownership.apply('transfer');
    ownership.apply('go');
    try {
      const handedOver = await sayGo(connection.control, options);
      ownership.apply('running');
      return handedOver;
    } catch (error) {
      const failure = GodwitError.wrap(error, 'GODWIT_INTERNAL', 'the hand-over failed');
      const reason = await connection.reasonFor(failure);
      if (reason.remote || !NO_ANSWER.includes(reason.code) || options.settleTimeoutMs === 0) throw reason;
      emit({ type: 'link-lost', reason });
      setState('settling');
      return this.#settle(options.settleTimeoutMs);
    }
  }

  async #settle(withinMs: number): Promise<HandedOver> {
    const { options, ownership } = this.#controls;
    const handedOver = await settle(this.#links, options, withinMs, this.#settling.signal);
    ownership.apply('running');
    return handedOver;
  }

  /** Tells the destination that it has the only copy now, and ends the link. */
  async #release(): Promise<void> {
    const { clock } = this.#controls.options;
    const stream = this.#links.current?.control.stream;
    if (stream !== undefined) await settledWithin(stream.write({ type: 'released' }), clock, CLOSING_MS);
    await this.#links.closeWithMessage(undefined);
  }

  /** The way back: first the guest, then the peer, then everything that was opened. Returns the error to end with. */
  async #fallBack(cause: unknown): Promise<GodwitError> {
    const { signal, ownership, stop, options } = this.#controls;
    const first: unknown = signal.aborted ? signal.reason : cause;
    const lost = this.#links.current?.signal;
    const why: unknown = !signal.aborted && lost?.aborted ? lost.reason : first;
    let error = GodwitError.wrap(why, 'GODWIT_INTERNAL', 'the migration failed');
    if (!ownership.allows('fail')) {
      error = await this.#giveUp(error);
      await this.#stopTracking();
      await this.#releaseDevices();
      return error;
    }
    const { state } = ownership;
    ownership.apply('fail');
    // Ends what is still under way, and makes a later `cancel` say that it comes too late.
    stop(error);
    if (this.#guest.asked) error = await this.#resume(error);
    const connection = this.#links.current;
    if (connection !== undefined) error = await connection.reasonFor(error);
    await this.#stopTracking();
    await this.#releaseDevices();
    const told = await this.#links.closeWithMessage(error);
    if (told || error.remote || !this.#welcomed || options.reconnectTimeoutMs === 0) return error;
    // Where the guest was running, the destination cannot be waiting for `go`: one short attempt is enough.
    await this.#links.tellKept(error, state === 'paused' ? options.reconnectTimeoutMs : CLOSING_MS);
    return error;
  }

  /** After `go`: the guest stays paused here, unless the embedder has recovered it in the meantime. */
  async #giveUp(cause: unknown): Promise<GodwitError> {
    const { ownership } = this.#controls;
    const reason = GodwitError.wrap(cause, 'GODWIT_INTERNAL', 'the hand-over failed');
    if (ownership.allows('giveUp')) ownership.apply('giveUp');
    await this.#links.closeWithMessage(reason);
    return ownership.state === 'unknown' ? ownershipUnknown(reason) : reason;
  }

  /** A device that hangs, since it still waits for something to save, does not keep the migration from ending. */
  async #releaseDevices(): Promise<void> {
    const { options, emit } = this.#controls;
    const releasing = this.#devices.release((device, error) =>
      emit({
        type: 'warning',
        code: 'GODWIT_DEVICE_FAILED',
        message: `device "${device.id}" could not let go of its state: ${error instanceof Error ? error.message : String(error)}`,
      }),
    );
    await settledWithin(releasing, options.clock, RELEASE_MS);
  }

  /** Nothing of ours touches the guest any more when it runs again. */
  async #resume(error: GodwitError): Promise<GodwitError> {
    const { emit, options } = this.#controls;
    await settledWithin(this.#devices.idle(), options.clock, SAVE_ENDS_MS);
    try {
      if (await this.#guest.resume(options.clock)) return error;
      emit({
        type: 'warning',
        code: 'GODWIT_VM_FAILED',
        message: 'pause() has not returned: the guest is resumed as soon as it does',
      });
      return error;
    } catch (resumeError) {
      return new GodwitError(
        'GODWIT_VM_FAILED',
        `the migration failed (${error.message}) and then the guest could not be resumed at the source: ${String(resumeError)}`,
        { cause: error },
      );
    }
  }

  /** A tracker that does not stop is reported, and not waited for. */
  async #stopTracking(): Promise<void> {
    let stopped = false;
    const stopping = this.#tracker.stop().then(() => {
      stopped = true;
    });
    await settledWithin(stopping, this.#controls.options.clock, CLOSING_MS);
    if (stopped) return;
    this.#controls.emit({
      type: 'warning',
      code: 'GODWIT_TRACKER_FAILED',
      message: `the dirty tracker "${this.#tracker.name}" has not stopped within ${CLOSING_MS} ms; the guest may go on paying for it`,
    });
  }

  async #reportProgress(over: AbortSignal): Promise<void> {
    const { options, emit, state } = this.#controls;
    if (options.progressIntervalMs === 0) return;
    try {
      for (;;) {
        await options.clock.sleep(options.progressIntervalMs, over);
        emit({ type: 'progress', progress: this.#meter.snapshot(state(), this.#vm.memory.pageSize) });
      }
    } catch {
      // The migration is over.
    }
  }
}

/** With a tracker that takes most pages for dirty whatever is written, no policy and no link would help: say so. */
function notConverging({ decision, newlyDirtyPages, trackers }: RoundRecord): GodwitError {
  const culprits = trackers.filter(({ exact, dirtyPages }) => !exact && dirtyPages * 2 > newlyDirtyPages);
  const named = culprits.map(
    ({ name, dirtyPages }) =>
      `; of ${newlyDirtyPages} dirty pages the tracker "${name}" reported ${dirtyPages}, and it also reports pages that nobody wrote`,
  );
  return new GodwitError(
    'GODWIT_NOT_CONVERGING',
    `the migration does not converge: ${decision.reason}${named.join('')}`,
  );
}
