import { abortable, underAll } from '../../abortable.js';
import { GodwitError } from '../../errors.js';
import { inTime } from '../../in-time.js';
import type { DirtyBitmaps } from '../../memory/dirty-bitmaps.js';
import type { ReadyFrame } from '../../protocol/frame.js';
import { FEATURES } from '../../protocol/negotiate.js';
import type { RoundRecord } from '../../round-record.js';
import { isLost } from '../../session/connection.js';
import { type AskedToLoad, askToLoad, continuePaused, untilReady } from '../ask-to-load.js';
import { downtimeLimitOf, isForced, pauseLimitOf } from '../attempt-limits.js';
import { goBack } from '../go-back.js';
import type { Harvest } from '../harvester.js';
import { checkLastHarvest } from '../last-harvest.js';
import { PauseBound } from '../pause-bound.js';
import type { PausedTimes } from '../paused-times.js';
import { roundEnded, roundStarted } from '../round-events.js';
import { describeSent } from '../sent-rounds.js';
import type { SourceConnection } from '../source-connection.js';
import type { PrecopyRound, SourceContext, SourcePhase } from '../source-context.js';
import { stillAsSaved } from '../still-as-saved.js';
import {
  accountedFor,
  announceMissing,
  openToRequests,
  stateFits,
  tellFurtherMissing,
  tooMuchState,
} from '../tell-missing.js';
import { verifyMemory } from '../verify-memory.js';

/**
 * Pauses the guest and sends the rest: pages, device state, and the pages that saving has written. The destination loads and answers
 * `ready`; then the source hands over.
 *
 * ```
 * source                                      destination
 * pause
 * harvest: within the limit?             no: back
 * send                                   ->   pages into memory
 * save devices                           ->   state kept
 * harvest again, send (saving dirties)   ->
 * switchover                             ->   load devices
 *                                        <-   ready
 * [digests of all RAM                    ->   compare]
 * harvest: must be empty, and known to be
 * ```
 *
 * By post-copy no page is sent with the guest paused: the destination is told which are owed (`missing`), and they follow once it runs.
 *
 * One bound (`PauseBound`) applies from the return of `pause` on, whichever step hangs. Past it, and when the link is lost, the guest
 * runs on at the source and pre-copy goes on; any other failure ends the migration.
 */
export class StopAndCopy implements SourcePhase {
  readonly name = 'stop-and-copy';
  readonly #last: PrecopyRound;
  #connection: SourceConnection;
  /** By post-copy: the pages that the destination was told over this connection. */
  #told: DirtyBitmaps | undefined;

  constructor(last: PrecopyRound, connection: SourceConnection) {
    this.#last = last;
    this.#connection = connection;
  }

  async run(context: SourceContext): Promise<SourcePhase> {
    const { options, session, rounds } = context;
    const canGoBack = rounds.welcome.features.includes(FEATURES.back);
    const { decision } = this.#last.record;
    const force = options.force || isForced(decision) || !canGoBack;
    const limitMs = downtimeLimitOf(options, decision);
    const bound = new PauseBound(options.clock, force ? 0 : pauseLimitOf(options, limitMs));
    context.byPostcopy = decision.action === 'postcopy';
    if (context.byPostcopy) {
      // Where a device does not report its size, the check is possible only here, with the guest paused.
      if (!stateFits(context)) throw tooMuchState(rounds.welcome.maximumDeviceState);
      this.#told = await announceMissing(context, this.#connection);
    }
    session.phase = 'stop-and-copy';
    context.emit({ type: 'switchover-start', attempt: session.attempt, limitMs: bound.limitMs });
    try {
      const times = await this.#pausedSteps(context, bound, force);
      // The last check of the bound: the next phase asks for the transfer, which is the point of no return.
      bound.check();
      session.signal.throwIfAborted();
      context.guest.checkAlive();
      const record = context.byPostcopy ? withoutRam(this.#last.record) : this.#last.record;
      return context.phases.handOver(this.#connection, record, times, (refused) => goBack(context, bound, refused));
    } catch (error) {
      if (!canGoBack) throw error;
      const reason = this.#reasonToGoBack(context, error);
      return context.phases.preCopy(await goBack(context, bound, reason));
    } finally {
      bound.hold();
    }
  }

  async #pausedSteps(context: SourceContext, bound: PauseBound, force: boolean): Promise<PausedTimes> {
    const { vm, options, session, ownership, guest, devices, model, byPostcopy, rounds } = context;
    const { clock } = options;
    const { attempt } = session;
    const start = clock.now();
    ownership.apply('pause');
    await this.#pause(context, bound);
    const paused = clock.now();
    context.pausedAt = paused;
    model.measured('pauseMs', paused - start);
    bound.run();
    context.throttle.paused();
    await this.#hold(context, bound);
    const held = clock.now();

    bound.enter('harvestMs');
    const last = await this.#harvest(context, bound);
    await this.#tell(context, bound, last);
    const harvested = clock.now();
    if (!byPostcopy) checkLastHarvest(context, bound, this.#last, last, force);
    bound.enter('ramMs');
    const endRound = once(byPostcopy ? () => {} : await this.#send(context, bound, last));
    const sent = clock.now();
    bound.enter('deviceMs');
    const beforeEarly = async (): Promise<void> => {
      if (byPostcopy) throw tooMuchState(rounds.welcome.maximumDeviceState);
      const written = await this.#harvest(context, bound);
      if (written.dirtyPages === 0) return;
      endRound();
      (await this.#send(context, bound, written))();
    };
    // Device state counts in the same round, whose record is made also when saving fails.
    await this.#within(bound, devices.save(attempt, bound.signal, beforeEarly)).finally(endRound);
    const saved = clock.now();
    bound.enter('harvestMs');
    const leftOver = await this.#harvest(context, bound);
    const harvestedAgain = clock.now();
    bound.enter('ramMs');
    if (byPostcopy) {
      await this.#tell(context, bound, leftOver);
      openToRequests(context);
    } else if (leftOver.dirtyPages > 0) (await this.#send(context, bound, leftOver))();
    const sentAgain = clock.now();

    bound.enter('loadMs');
    const { loadMs } = await this.#load(context, bound);
    const ready = clock.now();
    model.measured('deviceMs', saved - sent);
    model.measured('loadMs', loadMs);
    const verifiedPages = options.verify ? await this.#verify(context, bound, ready) : 0;
    const verified = clock.now();
    session.phase = 'deciding';
    bound.enter('harvestMs');
    const named = context.byPostcopy ? accountedFor(context) : undefined;
    const after = await this.#harvest(context, bound);
    // Pages that were not read were not re-armed, and are reported again.
    if (named?.contains(after.fresh) !== true) stillAsSaved(vm, context.tracker, after);
    this.#connection.signal.throwIfAborted();
    const checked = clock.now();
    return {
      ...{ start, paused, held, harvested, sent, saved, harvestedAgain, sentAgain, ready, verified, checked },
      ...{ loadMs, verifiedPages, runState: guest.runState, attempt },
    };
  }

  /** Pauses the guest. The call of `pause` has the same limit as the bound: past it, `pause` is told to undo itself. */
  async #pause({ options, guest, emit }: SourceContext, bound: PauseBound): Promise<void> {
    const { signal } = this.#connection;
    bound.enter('pauseMs');
    const { limitMs } = bound;
    const stop = new AbortController();
    const onLost = () => stop.abort(signal.reason);
    if (signal.aborted) onLost();
    signal.addEventListener('abort', onLost, { once: true });
    const pausing = guest.pause(stop.signal);
    try {
      if (limitMs === 0) await pausing;
      else {
        await inTime(pausing, options.clock, limitMs, () => {
          const late = new GodwitError(
            'GODWIT_SWITCHOVER_OVERRAN',
            `pause() has not returned within pauseLimitMs (${limitMs} ms), and is told to undo itself`,
          );
          stop.abort(late);
          emit({ type: 'warning', code: late.code, message: late.message });
          return late;
        });
      }
    } finally {
      signal.removeEventListener('abort', onLost);
    }
    guest.checkAlive();
  }

  /** Waits in `pre-switchover`, if that is asked for: the bound's clock is stopped, and the wait has its own limit. */
  async #hold({ options, requests, setState, byPostcopy }: SourceContext, bound: PauseBound): Promise<void> {
    const { clock, pauseBeforeSwitchover, preSwitchoverTimeoutMs } = options;
    if (pauseBeforeSwitchover) {
      bound.hold();
      const holding = requests.hold(this.#connection.signal, () => setState('pre-switchover'));
      await (preSwitchoverTimeoutMs === 0
        ? holding
        : inTime(holding, clock, preSwitchoverTimeoutMs, () => notProceeded(preSwitchoverTimeoutMs)));
      bound.run();
    }
    setState(byPostcopy ? 'postcopy-device' : 'device');
  }

  async #harvest({ harvester, model }: SourceContext, bound: PauseBound): Promise<Harvest> {
    const signals = [bound.signal, this.#connection.signal];
    const harvest = await underAll(signals, (signal) => harvester.harvest(signal));
    model.harvested(harvest.harvestMs, true);
    return harvest;
  }

  /** By post-copy: tells the destination which pages were written since it was told before. */
  async #tell(context: SourceContext, bound: PauseBound, { fresh }: Harvest): Promise<void> {
    if (this.#told === undefined) return;
    await this.#within(bound, tellFurtherMissing(context, this.#connection, fresh, this.#told));
  }

  /** Sends the pages; returns a function that ends the round and makes its record. */
  async #send(context: SourceContext, bound: PauseBound, harvest: Harvest): Promise<() => void> {
    const { rounds, model, meter, options } = context;
    const { clock } = options;
    const start = clock.now();
    const wire = meter.wire();
    const round = roundStarted(context, harvest.dirtyPages);
    const sent = await this.#within(bound, rounds.sendPaused(this.#connection, bound.signal));
    model.sent(sent, true);
    return () =>
      roundEnded(context, {
        ...this.#last.record,
        round,
        phase: 'stop-and-copy',
        dirtyPages: harvest.dirtyPages,
        deferredPages: 0,
        ...describeSent(sent, wire.span),
        harvestMs: harvest.harvestMs,
        totalMs: clock.now() - start,
        endedAtMs: meter.elapsedMs,
        linkBytesPerSecond: model.linkBytesPerSecond,
        throttle: 0,
        newlyDirtyPages: 0,
        trackers: [],
        dirtyPagesPerSecond: 0,
        decision: { action: 'switchover', reason: 'the guest is paused: these pages were left' },
      });
  }

  /** Sends `switchover` and waits for `ready`; reconnects when the link is lost meanwhile. */
  async #load(context: SourceContext, bound: PauseBound): Promise<ReadyFrame> {
    const { session, rounds, guest, devices } = context;
    const { attempt } = session;
    session.phase = 'loading';
    let asked: AskedToLoad | undefined;
    for (;;) {
      try {
        const switchover = { attempt, round: rounds.round, runState: guest.runState };
        asked ??= await this.#within(bound, askToLoad(this.#connection, switchover, devices));
        const frame = await untilReady(context, bound, asked);
        if (frame.attempt === attempt) return frame;
        throw new GodwitError('GODWIT_PROTOCOL', `"ready" is for attempt ${frame.attempt}; this is attempt ${attempt}`);
      } catch (error) {
        if (bound.signal.aborted || !isLost(error)) throw error;
        asked = await continuePaused(context, bound, this.#connection, error);
        this.#connection = asked.connection;
      }
    }
  }

  /** Compares all RAM: the bound's clock is stopped, and the comparison has its own limit. */
  async #verify(context: SourceContext, bound: PauseBound, since: number): Promise<number> {
    const { session, options, emit } = context;
    bound.hold();
    session.phase = 'verifying';
    const pages = await verifyMemory(context, this.#connection);
    emit({ type: 'verified', pages, verifyMs: options.clock.now() - since });
    bound.run();
    return pages;
  }

  /** Settles as `work` does, or as soon as the bound is passed, the link is lost or the migration ends. */
  #within<T>(bound: PauseBound, work: Promise<T>): Promise<T> {
    return abortable(work, this.#connection.signal, bound.signal);
  }

  /**
   * Returns the reason for going back to pre-copy: the passed bound or a lost link. Throws the first cause of any other failure. A
   * reason that the peer may have sent for a lost link is learned by reconnecting, with the guest running.
   */
  #reasonToGoBack({ session }: SourceContext, error: unknown): GodwitError {
    session.signal.throwIfAborted();
    if (GodwitError.is(error) && error.code === 'GODWIT_SWITCHOVER_OVERRAN') return error;
    const { signal } = this.#connection;
    const told = GodwitError.is(error) && error.remote;
    const cause: unknown = signal.aborted && !told ? signal.reason : error;
    if (isLost(cause)) return cause as GodwitError;
    throw cause;
  }
}

/** The prediction of an attempt that sends no pages with the guest paused. */
function withoutRam(record: RoundRecord): RoundRecord {
  const { prediction, predictionRange } = record;
  return {
    ...record,
    prediction: { ...prediction, ramMs: 0 },
    predictionRange: { ...predictionRange, ramMs: [0, 0] },
  };
}

function once(call: () => void): () => void {
  let called = false;
  return () => {
    if (!called) call();
    called = true;
  };
}

function notProceeded(timeoutMs: number): GodwitError {
  return new GodwitError(
    'GODWIT_SWITCHOVER_OVERRAN',
    `proceed() was not called within preSwitchoverTimeoutMs (${timeoutMs} ms)`,
  );
}
