import { abortable } from '../../abortable.js';
import { GodwitError } from '../../errors.js';
import { inTime } from '../../in-time.js';
import { DirtyBitmaps } from '../../memory/dirty-bitmaps.js';
import { populatedBitmaps } from '../../memory/populated-pages.js';
import type { ProtectionStatus } from '../../protect/protection-status.js';
import type { ProtectedMemory, WriteProtection } from '../../protect/write-protection.js';
import type { ThreadRecipe } from '../../thread-recipe.js';
import { askToLoad } from '../ask-to-load.js';
import { pauseLimitOf } from '../attempt-limits.js';
import { type BackgroundTimes, backgroundSummary } from '../background-summary.js';
import { cleanUp } from '../clean-up.js';
import { KeptState } from '../kept-state.js';
import { sendGo } from '../settlement.js';
import type { SourceConnection } from '../source-connection.js';
import { Finished, type SourceContext, type SourcePhase } from '../source-context.js';

/** The time between two reports of a snapshot's progress where `progressIntervalMs` is 0. Milliseconds. */
const LOOK_MS = 100;

/** When each step ended, in milliseconds of the clock. */
interface PauseTimes {
  readonly start: number;
  readonly stopped: number;
  readonly saved: number;
  readonly frozen: number;
  readonly pagesFrozen: number;
}

/**
 * A background snapshot: all memory is protected with the guest running; the guest is paused for its devices and for what was written
 * since; it runs on, and each page is saved before it is next written.
 *
 * ```
 * guest                    engine                              threads of the protection
 * runs                     protect                       ->    a page that is written is noted
 * paused                   save devices, into memory
 *                          freeze                        ->    what was noted is protected again
 * runs                                                         a page is copied before it is written; the others are saved in turn
 *                          all saved                     <-
 *                          device state, index, header,
 *                          flush, name
 * ```
 *
 * The source owns the guest all the time. Until the file has its name, any failure leaves the guest running and no file.
 */
export class Background implements SourcePhase {
  readonly name = 'background';
  readonly #connection: SourceConnection;
  readonly #target: ThreadRecipe;

  constructor(connection: SourceConnection, target: ThreadRecipe) {
    this.#connection = connection;
    this.#target = target;
  }

  async run(context: SourceContext): Promise<Finished> {
    const { options, claim, session } = context;
    const { clock } = options;
    const start = clock.now();
    const memory = await this.#protect(context, options.background as WriteProtection);
    try {
      const protectedAt = clock.now();
      const state = new KeptState(session.signal);
      const pause = await this.#pause(context, memory, state);
      const resumed = clock.now();
      const before = await this.#untilSaved(context, memory);
      // The protection is lifted before the file is flushed, so that no write waits for the flush.
      await memory.end();
      const protection = this.#look(context, memory, before);
      const saved = clock.now();
      await this.#commit(context, state);
      const times: BackgroundTimes = { ...pause, begun: start, protectedAt, resumed, allSaved: saved };
      const summary = backgroundSummary(context, times, protection);
      await cleanUp(context, async () => {
        session.phase = 'release';
        await session.close(undefined);
      });
      return new Finished(summary);
    } finally {
      // Lifts the protection at once; a thread may be in a write to a disk that hangs, and may read the memory until that write
      // returns.
      claim.keepUntil(memory.end(), 'the threads of a background snapshot');
    }
  }

  async #protect({ vm, options, claim, session }: SourceContext, service: WriteProtection): Promise<ProtectedMemory> {
    const { signal } = session;
    await abortable(service.ready(), signal);
    const contents = new DirtyBitmaps(vm.memory);
    await populatedBitmaps(vm.memory, contents, options.clock, signal);
    const protecting = service.protect({ memory: vm.memory, contents, target: this.#target });
    try {
      return await abortable(protecting, signal);
    } catch (error) {
      // The protection was cancelled, or has failed and protects nothing.
      claim.keepUntil(
        protecting.then((memory) => memory.end()),
        'the protection of the memory',
      );
      throw error;
    }
  }

  /** Pauses the guest, saves its devices and freezes the memory, within the bound of a pause. Resolves when the guest runs again. */
  async #pause(context: SourceContext, memory: ProtectedMemory, state: KeptState): Promise<PauseTimes> {
    const { options, session, ownership, guest, setState, emit } = context;
    const { clock } = options;
    const limitMs = pauseLimitOf(options);
    emit({ type: 'switchover-start', attempt: session.attempt, limitMs });
    ownership.apply('pause');
    // A step that hangs is told to end by the end of the migration, to which its lateness leads.
    const steps = this.#pausedSteps(context, memory, state);
    const times = await (limitMs === 0 ? steps : inTime(steps, clock, limitMs, () => overran(limitMs)));
    context.background.frozen = true;
    ownership.apply('back');
    await guest.resume(clock);
    setState('active');
    return times;
  }

  async #pausedSteps(
    { options, session, guest, devices, setState, rounds, limit }: SourceContext,
    memory: ProtectedMemory,
    state: KeptState,
  ): Promise<PauseTimes> {
    const { clock } = options;
    const { signal } = session;
    const start = clock.now();
    await guest.pause(signal);
    guest.checkAlive();
    const stopped = clock.now();
    setState('device');
    devices.use(state, rounds.welcome.maximumPayload, rounds.welcome.maximumDeviceState);
    await devices.save(session.attempt, signal);
    const saved = clock.now();
    // Saving begins with the freeze.
    memory.limit(limit.bytesPerSecond);
    // The memory is frozen after the devices were saved, since saving writes memory.
    const pagesFrozen = await abortable(memory.freeze(), signal);
    return { start, stopped, saved, frozen: clock.now(), pagesFrozen };
  }

  /** Resolves with the progress at the last look, once every page is saved. */
  async #untilSaved(context: SourceContext, memory: ProtectedMemory): Promise<ProtectionStatus> {
    const { options, session, limit, meter, emit } = context;
    const { clock, progressIntervalMs } = options;
    const pages = memory.status().pagesTotal;
    emit({ type: 'round-start', round: meter.roundStarted(pages), dirtyPages: pages });
    const over = new AbortController();
    let before = memory.status();
    const looking = (async () => {
      for (;;) {
        memory.limit(limit.bytesPerSecond);
        await clock.sleep(progressIntervalMs === 0 ? LOOK_MS : progressIntervalMs, over.signal);
        before = this.#look(context, memory, before);
      }
    })().catch(() => {});
    try {
      await abortable(memory.saved, session.signal);
    } finally {
      over.abort();
      await looking;
    }
    return before;
  }

  /** Counts the bytes that were saved since `before`, and emits `protection`. */
  #look({ meter, background, emit, options }: SourceContext, memory: ProtectedMemory, before: ProtectionStatus) {
    const protection = memory.status();
    background.bytes = protection.writtenBytes;
    meter.batchSent(before.pagesLeft - protection.pagesLeft);
    if (options.progressIntervalMs > 0) emit({ type: 'protection', protection });
    return protection;
  }

  /** Hands over the device state, and gives the file its name. */
  async #commit(context: SourceContext, state: KeptState): Promise<void> {
    const { options, session, rounds, devices, guest } = context;
    const { attempt, signal } = session;
    const { clock, switchoverTimeoutMs } = options;
    session.phase = 'stop-and-copy';
    await state.replay(this.#connection, signal);
    // This sends a round without pages, at whose end the file is flushed.
    await rounds.sendPaused(this.#connection, signal);
    session.phase = 'loading';
    const { ready } = await askToLoad(
      this.#connection,
      { attempt, round: rounds.round, runState: guest.runState },
      devices,
    );
    await inTime(abortable(ready, signal), clock, switchoverTimeoutMs, () => unfinished(switchoverTimeoutMs));
    signal.throwIfAborted();
    session.phase = 'handing-over';
    await sendGo(this.#connection, options, attempt, unnamed);
  }
}

function overran(limitMs: number): GodwitError {
  return new GodwitError(
    'GODWIT_SWITCHOVER_OVERRAN',
    `the guest could not be paused, its devices saved and its memory protected within pauseLimitMs (${limitMs} ms): it runs on, and nothing was saved`,
  );
}

/** The error for a file that is not whole and on its disk in time. The guest has been running since its memory was frozen. */
function unfinished(timeoutMs: number): GodwitError {
  return new GodwitError(
    'GODWIT_TIMEOUT',
    `the snapshot was not whole on its disk within switchoverTimeoutMs (${timeoutMs} ms) of its last page: it gets no name, and the guest runs on`,
  );
}

/** The error for a whole file whose name is not known to be there. */
function unnamed(timeoutMs: number): GodwitError {
  return new GodwitError(
    'GODWIT_TIMEOUT',
    `the snapshot is whole, but did not get its name within switchoverTimeoutMs (${timeoutMs} ms), and may get it later; the guest runs on`,
  );
}
