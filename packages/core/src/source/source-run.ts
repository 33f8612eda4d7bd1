import type { Claim } from '../claim/claim.js';
import { destinationOutlook } from '../convergence/device-terms.js';
import { DowntimeModel } from '../convergence/downtime-model.js';
import type { MigratableVm } from '../device/migratable-vm.js';
import { SentEncodings } from '../encoding/sent-encodings.js';
import { GodwitError } from '../errors.js';
import { inTime } from '../in-time.js';
import type { LinkConnector } from '../link/migration-link.js';
import { MemoryWindows } from '../memory/memory-windows.js';
import type { MigrationEvent, MigrationState, MigrationSummary } from '../migration-event.js';
import type { Ownership } from '../ownership/ownership.js';
import type { SourceOwnershipEvent, SourceOwnershipState } from '../ownership/source-ownership.js';
import { checkNothingShared } from '../protocol/shared-memory.js';
import { PageQueue } from '../queue/page-queue.js';
import type { DirtyTracker } from '../tracker/dirty-tracker.js';
import { TrackerUnion } from '../tracker/tracker-union.js';
import { askForTransfer, transferOf } from './ask-for-transfer.js';
import { Attempts } from './attempts.js';
import { BandwidthLimit } from './bandwidth-limit.js';
import { DeviceSender } from './device-sender.js';
import { EmbedderRequests } from './embedder-requests.js';
import { GuestPause } from './guest-pause.js';
import { GuestThrottle } from './guest-throttle.js';
import { Harvester } from './harvester.js';
import { HotPages } from './hot-pages.js';
import { LimitReach } from './limit-reach.js';
import { NamedFree } from './named-free.js';
import type { ResolvedOptions } from './options.js';
import { OwedByLoad } from './owed-by-load.js';
import { PauseRehearsal } from './pause-rehearsal.js';
import { Background } from './phases/background.js';
import { HandOver } from './phases/hand-over.js';
import { PostCopy } from './phases/post-copy.js';
import { PreCopy } from './phases/pre-copy.js';
import { Release, sendReleased } from './phases/release.js';
import { SetUp } from './phases/set-up.js';
import { StopAndCopy } from './phases/stop-and-copy.js';
import { PolicyWatch } from './policy-watch.js';
import { ProgressMeter } from './progress.js';
import { Readiness } from './readiness.js';
import { giveUp, rollBack } from './roll-back.js';
import { RoundTransfer } from './round-transfer.js';
import { sendMissing } from './send-missing.js';
import { settle } from './settlement.js';
import { ShadowPolicies } from './shadow-policies.js';
import {
  Finished,
  type Forecaster,
  type SourceContext,
  type SourcePhase,
  type SourcePhases,
} from './source-context.js';
import { SourceSession } from './source-session.js';

/** The parts of a `Migration` that its run needs. */
export interface SourceControls {
  readonly options: ResolvedOptions;
  readonly emit: (event: MigrationEvent) => void;
  readonly state: () => MigrationState;
  readonly setState: (state: MigrationState) => void;
  readonly ownership: Ownership<SourceOwnershipState, SourceOwnershipEvent>;
  readonly forecast: Forecaster | undefined;
}

/** How often the engine checks whether the guest has ended by itself. Milliseconds. */
const CHECK_MS = 100;

/**
 * The link is measured when there are at least this many bytes of device state: the time of fewer does not matter over any link.
 */
const MEASURED_FROM_BYTES = 256 * 1024;

/** The phases after `SetUp`. */
const PHASES: SourcePhases = {
  preCopy: (givenUp) => new PreCopy(givenUp),
  stopAndCopy: (last, connection) => new StopAndCopy(last, connection),
  handOver: (connection, record, times, giveUp) => new HandOver(connection, record, times, giveUp),
  postCopy: (record, times, handed, predictedMs) => new PostCopy(record, times, handed, predictedMs),
  background: (connection, target) => new Background(connection, target),
  release: (record, times, handed, predictedMs) => new Release(record, times, handed, predictedMs),
};

/** One migration at its source: runs the phases one after the other, and rolls back when one fails. */
export class SourceRun {
  readonly context: SourceContext;

  constructor(vm: MigratableVm, connector: LinkConnector, claim: Claim, controls: SourceControls) {
    this.context = makeContext(vm, connector, claim, controls);
  }

  /** Resolves when the guest runs at the destination. Rejects otherwise; before the transfer the guest is first resumed. */
  async execute(): Promise<MigrationSummary> {
    const over = new AbortController();
    const { watch, options } = this.context;
    const watching = [this.#reportProgress(over.signal), this.#watchGuest(over.signal)];
    if (!options.dryRun && options.background === undefined) watching.push(watch.run(over.signal));
    try {
      return await this.#phases();
    } finally {
      over.abort();
      await Promise.all(watching);
      this.#letGoOfGuest();
    }
  }

  /** Sets the throttle to 0 however the migration has ended, as soon as the VM may be called. */
  #letGoOfGuest(): void {
    const { throttle, guest, claim } = this.context;
    throttle.end();
    if (!throttle.holds) return;
    claim.keepUntil(
      guest.whenQuiet().then(() => throttle.end()),
      'pause() or resume() of the VM, to be followed by throttle(0),',
    );
  }

  /**
   * In the state `unknown`, asks the authority, if it has not answered, and then the destination again. Rejects without an
   * answer.
   */
  async settleAgain(): Promise<void> {
    const { context } = this;
    const { ownership, session } = context;
    if (!ownership.allows('settle')) ownership.apply('settle');
    context.settling = new AbortController();
    try {
      if (context.transferred) ownership.apply('settle');
      else await this.#transferAgain();
      if ((await settle(context)).incomplete) await sendMissing(context);
      await sendReleased(context);
    } catch (error) {
      const reason = GodwitError.wrap(error, 'GODWIT_INTERNAL', `settling attempt ${session.attempt} failed`);
      throw ownership.state === 'kept' ? reason : await giveUp(context, reason);
    }
  }

  /** Asks the authority again. Throws its refusal after the guest was resumed at the source. */
  async #transferAgain(): Promise<void> {
    const { context } = this;
    const { ownership, claim, guest, options } = context;
    ownership.apply('transfer');
    const refused = await askForTransfer(context);
    if (refused === undefined) {
      context.transferred = true;
      ownership.apply('go');
      return;
    }
    ownership.apply('fail');
    claim.takeBack();
    await guest.resume(options.clock);
    await context.session.tellKept(refused, options.reconnectTimeoutMs);
    claim.end();
    throw refused;
  }

  /** Runs the guest at the source after `go`, if the authority allows it: the embedder has declared the destination dead. */
  async recover(): Promise<{ readonly lostMs: number }> {
    const { context } = this;
    const { ownership, options, vm, claim, guest } = context;
    if (!ownership.allows('recover')) ownership.apply('recover');
    if (context.transferred) checkNothingShared(vm.memory, 'recover()');
    const { clock, authority, switchoverTimeoutMs } = options;
    const transfer = transferOf(context);
    // A transfer without an answer may still be granted later, so it is withdrawn first.
    const asking = context.transferred
      ? authority.mayRun(transfer, 'source')
      : authority.withdraw(transfer).then((answer) => answer === 'withdrawn' && authority.mayRun(transfer, 'source'));
    const late = () => new GodwitError('GODWIT_TIMEOUT', 'the ownership authority has not answered');
    if (!(await inTime(asking, clock, switchoverTimeoutMs, late))) {
      throw new GodwitError('GODWIT_NOT_OWNER', "the ownership authority says that the guest is not the source's");
    }
    ownership.apply('recover');
    context.settling.abort(
      new GodwitError(
        'GODWIT_RECOVERED',
        'the destination was declared dead while it was being asked whether it runs the guest; the guest runs here',
      ),
    );
    if (guest.runState === 'running') await vm.resume();
    if (claim.state === 'handedOver') claim.takeBack();
    claim.end();
    return { lostMs: clock.now() - context.pausedAt };
  }

  async #phases(): Promise<MigrationSummary> {
    const { context } = this;
    try {
      let phase: SourcePhase = new SetUp();
      for (;;) {
        const next = await phase.run(context);
        if (next instanceof Finished) {
          if (context.claim.state !== 'handedOver') context.claim.end();
          return next.summary;
        }
        phase = next;
      }
    } catch (error) {
      throw await rollBack(context, error);
    }
  }

  async #reportProgress(over: AbortSignal): Promise<void> {
    const { options, emit, state, meter, vm } = this.context;
    if (options.progressIntervalMs === 0) return;
    try {
      for (;;) {
        await options.clock.sleep(options.progressIntervalMs, over);
        emit({ type: 'progress', progress: meter.snapshot(state(), vm.memory.pageSize) });
      }
    } catch {
      // The migration is over.
    }
  }

  /** Ends the migration when the guest ends by itself, also in the middle of a round. */
  async #watchGuest(over: AbortSignal): Promise<void> {
    const { options, vm, ownership, guest, session, background } = this.context;
    if (vm.runState === undefined) return;
    try {
      for (;;) {
        await options.clock.sleep(CHECK_MS, over);
        // Once its memory is frozen, a background snapshot does not depend on the guest any more.
        if (ownership.state === 'running' && !background.frozen) guest.checkAlive();
      }
    } catch (error) {
      if (!over.aborted && ownership.allows('fail')) session.end.set(error as GodwitError);
    }
  }
}

function makeContext(
  vm: MigratableVm,
  connector: LinkConnector,
  claim: Claim,
  { options, emit, state, setState, ownership, forecast }: SourceControls,
): SourceContext {
  const { clock } = options;
  const { memory } = vm;
  const windows = new MemoryWindows(memory);
  const model = new DowntimeModel(options.prior, memory.pageSize, clock);
  const encodings = new SentEncodings(options.encodings, options.adaptiveEncodings);
  const postcopy = options.postcopy ? { open: new Int32Array(sharedWord()) } : undefined;
  const background = { frozen: false, bytes: 0 };
  const namedFree = new NamedFree({ vm, options, claim, emit });
  const session = new SourceSession({ vm, connector, options, encodings, postcopy, emit });
  const limit = new BandwidthLimit(clock, options.bandwidthLimit, () => session.limitedBytes);
  const devices = new DeviceSender(vm.devices, { limit, clock, onWrite: () => meter.wrote() });
  const meter = new ProgressMeter(
    clock,
    () => ({
      pagesPerSecond: model.pagesPerSecond(options.bandwidthLimit),
      pausedPagesPerSecond: model.pagesPerSecond(0),
      linkBytesPerSecond: model.linkBytesPerSecond,
      roundTripMs: model.roundTripMs,
      sinceHarvestMs: context.harvester.sinceMs,
      debtMs: limit.debtMs,
      writeMs: limit.bytesPerSecond === 0 ? 0 : (limit.most / limit.bytesPerSecond) * 1000,
      downtimeLimitMs: options.downtimeLimitMs,
      throttle: throttle.fraction,
    }),
    {
      written: () => session.wireBytes + background.bytes,
      carried: () => session.carriedBytes + background.bytes,
      device: () => devices.writtenBytes,
    },
    () => queue.answeredPages,
  );
  const guest = new GuestPause(vm, claim);
  const throttle = new GuestThrottle({ vm, guest, clock, longestMs: () => options.downtimeLimitMs, emit });
  const readiness = new Readiness(clock);
  const trackerFailed = ({ name }: DirtyTracker, error: unknown): void =>
    emit({
      type: 'warning',
      code: 'GODWIT_TRACKER_FAILED',
      message: `the dirty tracker "${name}" failed, so every page counts as dirty: ${String(error)}`,
    });
  const tracker = new TrackerUnion(vm.trackers, trackerFailed, {
    blocks: memory.blocks,
    onReadOnlyWritten: ({ name }, index) =>
      emit({
        type: 'warning',
        code: 'GODWIT_INVALID_ARGUMENT',
        message:
          `the dirty tracker "${name}" reports that RAM block "${memory.blocks[index]?.id}" was written, which is declared ` +
          'read-only: its pages are sent again like those of any block. Leave readOnly out if something writes it',
      }),
  });
  const queue = PageQueue.create(memory);
  const rounds = new RoundTransfer({
    session,
    windows,
    devices,
    deviceIds: vm.devices.map(({ id }) => id),
    options,
    encodings,
    sender: {
      ...{ memory, tracker, limit, queue },
      onBatch: (pages) => meter.batchSent(pages),
      deviceBytes: () => devices.writtenBytes,
    },
    emit,
    setState: (next) => {
      if (state() === 'setup') setState('active');
      setState(next);
    },
    onOwed: (pages) => meter.roundOwes(pages),
    onStateSent: (bytes, busyMs, wallMs) => model.stateSent(bytes, busyMs, wallMs),
    onProbed: (bytes, ms) => model.probed(bytes, ms),
    isLinkUnknown: () => !model.linkKnown && devices.reports.outlook.bytes >= MEASURED_FROM_BYTES,
    onChannels: (connection) => {
      meter.channels = connection?.channels ?? [];
      if (connection !== undefined) model.channels = connection.channels.length;
    },
  });
  const context: SourceContext = {
    phases: PHASES,
    ...{
      vm,
      options,
      claim,
      ownership,
      session,
      windows,
      devices,
      tracker,
      queue,
      encodings,
      limit,
      meter,
      readiness,
      rounds,
      guest,
      throttle,
    },
    shadows: new ShadowPolicies(options.shadows, emit),
    reach: new LimitReach(emit),
    watch: new PolicyWatch(() => context),
    model,
    attempts: new Attempts(clock),
    rehearsal: new PauseRehearsal({ vm, clock, claim, emit, learn: (ms) => model.rehearsed(ms) }),
    records: [],
    requests: new EmbedderRequests(),
    // With encodings a page that is sent again is small, and the cost of a page is known only after it was sent.
    hotPages: options.hotPagesLast && options.encodings.length === 0 ? new HotPages(memory) : undefined,
    namedFree,
    harvester: new Harvester(memory, queue, tracker, clock, (pages) => namedFree.written(pages)),
    settling: new AbortController(),
    transferred: false,
    postcopy,
    get postcopyAgreed() {
      const { current } = session;
      // The agreement on post-copy also holds while the link is lost.
      return postcopy !== undefined && rounds.hasStarted && (current === undefined || current.urgent !== undefined);
    },
    background,
    ...{ byPostcopy: false, missingPages: 0, postcopyReport: undefined, pausedAt: 0 },
    forecast,
    emit,
    state,
    setState,
  };
  const owed = new OwedByLoad(() => context);
  session.listeners = {
    owed: (frame) => owed.take(frame),
    prepared: (frame) => {
      readiness.answered(frame, rounds.welcome.incarnation);
      owed.prepared(frame);
      model.destination(...destinationOutlook(frame));
    },
    loaded: ({ device, sequence, attempt }) => devices.loaded(device, sequence, attempt),
  };
  return context;
}

/** Makes a word that other threads can see, where `SharedArrayBuffer` exists. */
function sharedWord(): ArrayBufferLike {
  return typeof SharedArrayBuffer === 'undefined' ? new ArrayBuffer(4) : new SharedArrayBuffer(4);
}
