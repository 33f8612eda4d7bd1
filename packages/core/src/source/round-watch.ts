import { totalDowntime } from '../convergence/downtime-model.js';
import type { PolicyMoment, RoundOutcome } from '../convergence/policy.js';
import { GodwitError } from '../errors.js';
import { noPages } from '../round-record.js';
import type { Switchover } from './decide.js';
import type { SourceContext } from './source-context.js';

/** How often a policy is asked while a round is sent, in milliseconds. */
const ASK_MS = 100;

/** The reason of the signal that ends a round early. */
export class RoundCut extends Error {
  override readonly name = 'RoundCut';
}

/**
 * Asks the policy while a round is sent: every 100 ms, and at once when a limit is changed or a switchover asked for. Ends the round
 * early when a switchover may begin, and the migration when the policy gives up, throws, or returns what is no decision.
 */
export class RoundWatch {
  readonly #context: SourceContext;
  readonly #decide: Switchover;
  readonly #cut = new AbortController();
  readonly #over = new AbortController();
  /** Wire bytes, and when, once the carriers were filled: what goes out from then on goes as fast as the link is. */
  #filled: { readonly bytes: number; readonly at: number } | undefined;

  constructor(context: SourceContext, decide: Switchover) {
    this.#context = context;
    this.#decide = decide;
    void this.#watch();
  }

  /** Aborts when the round is to end early. */
  get cut(): AbortSignal {
    return this.#cut.signal;
  }

  /** The round has come to its end. */
  end(): void {
    this.#over.abort();
  }

  /** Of the round that is being sent, waiting for our own limit included; `undefined` at first. */
  #bytesPerSecond(): number | undefined {
    const { meter, options } = this.#context;
    const { wireBytes } = meter.totals();
    const now = options.clock.now();
    this.#filled ??= { bytes: wireBytes, at: now };
    const { bytes, at } = this.#filled;
    return now > at ? ((wireBytes - bytes) / (now - at)) * 1000 : undefined;
  }

  async #watch(): Promise<void> {
    const { signal: over } = this.#over;
    const { session, requests, options } = this.#context;
    while (!over.aborted) {
      const waiting = new AbortController();
      const stop = () => waiting.abort();
      over.addEventListener('abort', stop, { once: true });
      const asked = requests.asked(waiting.signal).then(() => 'adjusted' as const);
      const slept = options.clock.sleep(ASK_MS, waiting.signal).then(
        () => 'in-round' as const,
        () => 'in-round' as const,
      );
      const moment: PolicyMoment = await Promise.race([asked, slept]);
      waiting.abort();
      over.removeEventListener('abort', stop);
      if (over.aborted || session.signal.aborted) return;
      try {
        if (!(await this.#decide.inRound(moment, outcomeNow(this.#context, this.#bytesPerSecond())))) continue;
        if (!over.aborted) this.#cut.abort(new RoundCut('the policy wants to switch over'));
        return;
      } catch (error) {
        // Whoever sends the round hears of it: the session is over.
        if (!over.aborted) session.end.set(GodwitError.wrap(error, 'GODWIT_INTERNAL', 'the policy could not be asked'));
        return;
      }
    }
  }
}

/** The last complete round, with what is owed in the middle of the one that is being sent. */
function outcomeNow(
  { meter, model, harvester, devices, records }: SourceContext,
  bytesPerSecond: number | undefined,
): RoundOutcome {
  const last = meter.last;
  const { pagesLeft } = meter;
  const dirtied = ((last?.dirtyPagesPerSecond ?? 0) * harvester.sinceMs) / 1000;
  // Pages that the round leaves for later are dirtied again meanwhile, most of them.
  const newlyDirtyPages = pagesLeft + Math.max(Math.round(dirtied), meter.deferredPages);
  const prediction = model.predict({
    dirtyPages: newlyDirtyPages,
    deviceBytes: devices.knownBytes,
    ...(bytesPerSecond !== undefined && { bytesPerSecond }),
  });
  return {
    ...(last ?? NO_ROUND),
    round: records.length === 0 ? 0 : meter.round - 1,
    linkBytesPerSecond: model.linkBytesPerSecond || (bytesPerSecond ?? 0),
    newlyDirtyPages,
    prediction,
    predictedDowntimeMs: totalDowntime(prediction),
  };
}

/** The last complete round, with what is owed some time after it, when no other one has begun. */
export function outcomeSince({ model, harvester, devices }: SourceContext, last: RoundOutcome): RoundOutcome {
  const dirtied = (last.dirtyPagesPerSecond * harvester.sinceMs) / 1000;
  const newlyDirtyPages = last.newlyDirtyPages + Math.round(dirtied);
  const prediction = model.predict({ dirtyPages: newlyDirtyPages, deviceBytes: devices.knownBytes });
  return { ...last, newlyDirtyPages, prediction, predictedDowntimeMs: totalDowntime(prediction) };
}

const NO_TERMS = { pauseMs: 0, harvestMs: 0, ramMs: 0, deviceMs: 0, loadMs: 0, roundTripMs: 0, resumeMs: 0 };

/** Before the first round is complete. */
const NO_ROUND: RoundOutcome = {
  round: 0,
  phase: 'pre-copy',
  dirtyPages: 0,
  deferredPages: 0,
  pages: noPages(),
  rawBytes: 0,
  wireBytes: 0,
  deviceBytes: 0,
  savedBytes: 0,
  harvestMs: 0,
  scanMs: 0,
  sendMs: 0,
  limitMs: 0,
  totalMs: 0,
  linkBytesPerSecond: 0,
  newlyDirtyPages: 0,
  trackers: [],
  dirtyPagesPerSecond: 0,
  predictedDowntimeMs: 0,
  prediction: NO_TERMS,
};
