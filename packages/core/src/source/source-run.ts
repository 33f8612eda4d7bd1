import { lastValueFrom, tap } from 'rxjs';
import { abortable } from '../abortable.js';
import { DowntimeModel, totalDowntime } from '../convergence/downtime-model.js';
import type { MigratableVm } from '../device/migratable-vm.js';
import { SentEncodings } from '../encoding/sent-encodings.js';
import { GodwitError } from '../errors.js';
import { inTime, settledWithin } from '../in-time.js';
import { ControlChannel } from '../link/control-channel.js';
import { FAREWELL_MS, farewell, isLinkLost } from '../link/farewell.js';
import type { LinkConnector, MigrationLink } from '../link/migration-link.js';
import { checkWelcome, FEATURES, helloOf } from '../link/negotiate.js';
import type { PageStream } from '../link/page-stream.js';
import { checkGuestMemory } from '../memory/check-guest-memory.js';
import { MemoryWindows } from '../memory/memory-windows.js';
import { populatedBitmaps } from '../memory/populated-pages.js';
import type { MigrationEvent, MigrationState, MigrationSummary } from '../migration-event.js';
import { allPages, type RoundRecord } from '../round-record.js';
import { TrackerUnion } from '../tracker/tracker-union.js';
import { BandwidthLimit } from './bandwidth-limit.js';
import { DeviceSender } from './device-sender.js';
import { compareTerms } from './downtime-terms.js';
import { type Harvest, Harvester } from './harvester.js';
import type { ResolvedOptions } from './options.js';
import { LocalPageChannel } from './page-channel.js';
import { describeSent, precopyRounds } from './precopy-rounds.js';
import { ProgressMeter } from './progress.js';
import { RoundSender } from './round-sender.js';
import { switchover } from './switchover.js';

/** How long a device that is still saving may take to notice that it is over, before the guest runs again: a cancel is to be felt at once. */
const SAVE_ENDS_MS = 40;

/** How long devices may take to let go of their state when it is over: a change of state in hardware, and some. */
const RELEASE_MS = 5000;

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
  readonly pointOfNoReturn: () => void;
  readonly crossed: () => boolean;
}

/** One attempt to move a VM, from connecting to `running`, and the way back when it fails. */
export class SourceRun {
  readonly #vm: MigratableVm;
  readonly #connector: LinkConnector;
  readonly #controls: SourceControls;
  readonly #limit: BandwidthLimit;
  readonly #meter: ProgressMeter;
  readonly #tracker: TrackerUnion;
  readonly #encodings: SentEncodings;
  readonly #rounds: RoundRecord[] = [];
  #link: MigrationLink | undefined;
  #control: ControlChannel | undefined;
  #sender: RoundSender | undefined;
  #devices: DeviceSender | undefined;
  #pauseAsked = false;

  constructor(vm: MigratableVm, connector: LinkConnector, controls: SourceControls) {
    this.#vm = vm;
    this.#connector = connector;
    this.#controls = controls;
    this.#limit = new BandwidthLimit(controls.options.clock, controls.options.bandwidthLimit);
    this.#meter = new ProgressMeter(controls.options.clock);
    this.#encodings = new SentEncodings(controls.options.encodings, controls.options.adaptiveEncodings);
    this.#tracker = new TrackerUnion(vm.trackers, (tracker, error) =>
      controls.emit({
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
      await this.#tracker.stop();
      await this.#releaseDevices();
      await this.#farewell(undefined);
      return summary;
    } finally {
      over.abort();
      await reporting;
    }
  }

  async #move(): Promise<MigrationSummary> {
    const { options, signal, setState, emit } = this.#controls;
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
    const { control, maximumPayload } = await this.#connect();
    const windows = new MemoryWindows(this.#vm.memory);
    const link = this.#link as MigrationLink;
    const streams: readonly PageStream[] = link.pageChannels.length > 0 ? link.pageChannels : [link.control];
    const channels = streams.map(
      (stream) =>
        stream.sendPages?.(this.#vm.memory, this.#encodings.shared()) ??
        new LocalPageChannel(stream, windows, clock, this.#encodings.encoder(windows, clock)),
    );
    this.#meter.channels = channels;
    const model = new DowntimeModel(options.prior, this.#vm.memory.pageSize);
    const devices = new DeviceSender({ devices: this.#vm.devices, stream: control.stream, signal, maximumPayload });
    this.#devices = devices;
    const harvester = new Harvester(this.#vm.memory, this.#tracker, clock);
    const sender = new RoundSender({
      memory: this.#vm.memory,
      tracker: this.#tracker,
      channels,
      limit: this.#limit,
      clock,
      signal,
      maximumPayload,
      acknowledged: async (round) => {
        const ack = await control.expect('roundAck');
        if (ack.round !== round) {
          throw new GodwitError(
            'GODWIT_PROTOCOL',
            `expected the acknowledgement of round ${round}, got that of ${ack.round}`,
          );
        }
        return ack.pages;
      },
      onBatch: (pages) => this.#meter.batchSent(pages),
    });
    this.#sender = sender;

    // Logging starts before the first byte is read.
    await this.#tracker.start();
    signal.throwIfAborted();
    const { handshakeTimeoutMs } = options;
    const firstPing = inTime(control.ping(), clock, handshakeTimeoutMs, () => unanswered(handshakeTimeoutMs));
    model.roundTrip(await abortable(firstPing, signal));
    setState('active');

    const bitmaps = harvester.take();
    const scanStart = clock.now();
    await populatedBitmaps(this.#vm.memory, bitmaps, clock);
    signal.throwIfAborted();
    const first: Harvest = {
      bitmaps,
      dirtyPages: bitmaps.count(),
      trackers: [],
      harvestMs: clock.now() - scanStart,
      sinceMs: 0,
    };
    const startRound = (round: number, pages: number) => {
      this.#meter.roundStarted(round, pages);
      emit({ type: 'round-start', round, dirtyPages: pages });
    };
    const { record, pending } = await lastValueFrom(
      precopyRounds(first, {
        harvester,
        model,
        clock,
        signal,
        policy: options.policy,
        downtimeLimitMs: () => options.downtimeLimitMs,
        startedAt: this.#meter.startedAt,
        deviceBytes: () => devices.stateBytes(),
        send: async (round, harvest) => {
          startRound(round, harvest.dirtyPages);
          const sent = await sender.send(round, harvest.bitmaps, harvest.dirtyPages, true);
          await devices.precopy();
          model.roundTrip(await abortable(control.ping(), signal));
          return sent;
        },
      }).pipe(tap((round) => this.#roundEnded(round.record))),
    );
    if (record.decision.action === 'abort') {
      throw notConverging(record);
    }

    signal.throwIfAborted();
    let lastRound = record.round;
    this.#pauseAsked = true;
    const result = await switchover(pending, {
      vm: this.#vm,
      control,
      harvester,
      devices,
      windows,
      clock,
      signal,
      verify: options.verify,
      maximumPayload,
      timeoutMs: options.switchoverTimeoutMs,
      lastRound: () => lastRound,
      send: async (harvest) => {
        startRound(++lastRound, harvest.dirtyPages);
        const sent = await sender.send(lastRound, harvest.bitmaps, harvest.dirtyPages, false);
        harvester.release(harvest.bitmaps);
        model.sent(sent);
        this.#roundEnded({
          ...record,
          round: lastRound,
          phase: 'stop-and-copy',
          dirtyPages: harvest.dirtyPages,
          ...describeSent(sent),
          harvestMs: harvest.harvestMs,
          totalMs: sent.totalMs,
          linkBytesPerSecond: model.linkBytesPerSecond,
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
      onVerified: (pages, verifyMs) => emit({ type: 'verified', pages, verifyMs }),
      pointOfNoReturn: this.#controls.pointOfNoReturn,
    });
    control.finish();
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
      wireBytes: [link.control, ...link.pageChannels].reduce((sum, stream) => sum + stream.bytesWritten, 0),
    };
  }

  #roundEnded(record: RoundRecord): void {
    this.#rounds.push(record);
    if (this.#rounds.length > MOST_RECORDS) this.#rounds.shift();
    this.#meter.roundEnded(record);
    this.#controls.emit({ type: 'round', round: record });
  }

  async #connect(): Promise<{ readonly control: ControlChannel; readonly maximumPayload: number }> {
    const { options, signal, stop, emit } = this.#controls;
    const { clock, handshakeTimeoutMs, migrationId, pageChannels } = options;
    // A subscriber may have cancelled when it heard of "setup": no event comes from the signal any more.
    signal.throwIfAborted();
    const handshake = new AbortController();
    const onStop = () => handshake.abort(signal.reason);
    signal.addEventListener('abort', onStop, { once: true });
    const inTime = new AbortController();
    clock.sleep(handshakeTimeoutMs, inTime.signal).then(
      () => handshake.abort(unanswered(handshakeTimeoutMs)),
      () => {},
    );
    try {
      const link = await this.#openLink(handshake.signal);
      if (link.pageChannels.length !== pageChannels) {
        emit({
          type: 'warning',
          code: 'GODWIT_UNSUPPORTED',
          message: `${pageChannels} page channels were asked for, but the link to ${link.peer} has ${link.pageChannels.length}`,
        });
      }
      const control = new ControlChannel(link.control, clock, stop);
      this.#control = control;
      const encodings = this.#encodings.features;
      const features = [...(options.verify ? [FEATURES.verify] : []), ...encodings];
      const channels = link.pageChannels.length;
      const hello = helloOf(this.#vm, migrationId, features, channels, options.description, 1, 'running');
      const welcome = await abortable(control.ask(hello, 'welcome'), handshake.signal);
      const dispensable = options.missingEncoding === 'warn' ? encodings : [];
      checkWelcome(welcome, features, this.#vm.memory.pageSize, dispensable);
      for (const name of this.#encodings.welcomed(welcome.features, this.#vm.memory)) {
        const message = `the encoding "${name}" is not used: the destination (${welcome.software}) does not have it`;
        emit({ type: 'warning', code: 'GODWIT_UNSUPPORTED', message });
      }
      return { control, maximumPayload: welcome.maximumPayload };
    } finally {
      inTime.abort();
      signal.removeEventListener('abort', onStop);
    }
  }

  async #openLink(signal: AbortSignal): Promise<MigrationLink> {
    const { clock, migrationId, pageChannels } = this.#controls.options;
    try {
      const connecting = this.#connector.connect({ migrationId, pageChannels, connection: 1 }, signal);
      connecting.then(
        (link) => {
          this.#link = link;
          // A link that comes too late is dropped.
          if (signal.aborted)
            void farewell(
              [link.control, ...link.pageChannels],
              clock,
              GodwitError.wrap(signal.reason, 'GODWIT_CANCELLED', 'given up'),
            );
        },
        () => {},
      );
      return await abortable(connecting, signal);
    } catch (error) {
      throw GodwitError.wrap(error, 'GODWIT_CONNECT_FAILED', 'the destination could not be reached');
    }
  }

  /** The way back: first the guest, then the peer, then everything that was opened. Returns the error to end with. */
  async #fallBack(cause: unknown): Promise<GodwitError> {
    const { signal, crossed, stop } = this.#controls;
    const first: unknown = signal.aborted ? signal.reason : cause;
    let error = GodwitError.wrap(first, 'GODWIT_INTERNAL', 'the migration failed');
    // Ends what is still under way, and makes a later `cancel` say that it comes too late.
    stop(error);
    if (crossed()) {
      error = await this.#peersReason(error);
      error = new GodwitError(
        'GODWIT_OWNERSHIP_UNKNOWN',
        `the migration failed after "go" was sent (${error.message}): the destination may be running the guest. It stays paused here; ` +
          'resume it only after making sure that the destination does not run it',
        { cause: error },
      );
    } else {
      if (this.#pauseAsked) error = await this.#resume(error);
      error = await this.#peersReason(error);
    }
    await this.#tracker.stop();
    await this.#releaseDevices();
    await this.#farewell(error);
    return error;
  }

  /** A device that hangs, since it still waits for something to save, does not keep the migration from ending. */
  async #releaseDevices(): Promise<void> {
    const { options, emit } = this.#controls;
    const releasing = this.#devices?.release((device, error) =>
      emit({
        type: 'warning',
        code: 'GODWIT_DEVICE_FAILED',
        message: `device "${device.id}" could not let go of its state: ${error instanceof Error ? error.message : String(error)}`,
      }),
    );
    if (releasing !== undefined) await settledWithin(releasing, options.clock, RELEASE_MS);
  }

  /** Nothing of ours touches the guest any more when it runs again. */
  async #resume(error: GodwitError): Promise<GodwitError> {
    if (this.#devices !== undefined)
      await settledWithin(this.#devices.idle(), this.#controls.options.clock, SAVE_ENDS_MS);
    try {
      await this.#vm.resume();
      return error;
    } catch (resumeError) {
      return new GodwitError(
        'GODWIT_VM_FAILED',
        `the migration failed (${error.message}) and then the guest could not be resumed at the source: ${String(resumeError)}`,
        { cause: error },
      );
    }
  }

  /** A stream that broke under a write says nothing; the destination may have told the reason on the control stream. */
  async #peersReason(error: GodwitError): Promise<GodwitError> {
    const control = this.#control;
    if (control === undefined || !isLinkLost(error)) return error;
    await settledWithin(control.ended, this.#controls.options.clock, FAREWELL_MS);
    return control.failure?.remote ? control.failure : error;
  }

  /** Tells the peer why, as far as it still listens, and lets go of every stream. */
  async #farewell(error: GodwitError | undefined): Promise<void> {
    const link = this.#link;
    if (link === undefined) return;
    const { clock } = this.#controls.options;
    this.#control?.finish();
    const silent =
      error === undefined || error.remote || (this.#control !== undefined && isLinkLost(this.#control.failure));
    await farewell([link.control, ...link.pageChannels], clock, silent ? undefined : error);
    // Dropped streams give back what they borrowed: the embedder may free guest memory when we are done.
    if (this.#sender !== undefined) await settledWithin(this.#sender.idle(), clock, FAREWELL_MS);
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

function unanswered(handshakeTimeoutMs: number): GodwitError {
  return new GodwitError(
    'GODWIT_TIMEOUT',
    `no answer from the destination within handshakeTimeoutMs (${handshakeTimeoutMs} ms)`,
  );
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
