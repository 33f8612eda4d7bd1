import { settledWithin } from '../../in-time.js';
import type { MigrationSummary } from '../../migration-event.js';
import { allPages, type RoundRecord } from '../../round-record.js';
import { CLOSING_MS } from '../../session/closing-message.js';
import { downtimeLimitOf } from '../attempt-limits.js';
import { cleanUp } from '../clean-up.js';
import { compareTerms, worstTerm } from '../downtime-terms.js';
import { downtimeOf, type HandedOver, type PausedTimes } from '../paused-times.js';
import { Finished, type SourceContext, type SourcePhase } from '../source-context.js';

/** Cleans up the source after the guest runs at the destination. Nothing that fails here changes the result. */
export class Release implements SourcePhase {
  readonly name = 'release';
  readonly #record: RoundRecord;
  readonly #times: PausedTimes;
  readonly #handed: HandedOver;
  readonly #predictedMs: number;

  constructor(record: RoundRecord, times: PausedTimes, handed: HandedOver, predictedMs: number) {
    this.#record = record;
    this.#times = times;
    this.#handed = handed;
    this.#predictedMs = predictedMs;
  }

  async run(context: SourceContext): Promise<Finished> {
    context.claim.handOver();
    const summary = this.#summary(context);
    await cleanUp(context, async () => sendReleased(context));
    // Bytes that were sent after the last round belong to no round.
    const { wireBytes } = context.session;
    const outsideRoundsBytes = summary.outsideRoundsBytes + wireBytes - summary.wireBytes;
    return new Finished({ ...summary, wireBytes, outsideRoundsBytes });
  }

  #summary(context: SourceContext): MigrationSummary {
    const { options, meter, vm, model, records, attempts, session, throttle, shadows, emit } = context;
    const { verify } = options;
    const { prediction, predictionRange, predictedDowntimeRangeMs, decision } = this.#record;
    const limitMs = downtimeLimitOf(options, decision);
    const { downtimeMs, terms, verifyMs, heldMs } = downtimeOf(this.#times, this.#handed, verify, model.roundTripMs);
    if (downtimeMs > limitMs) {
      const term = worstTerm(prediction, terms);
      emit({ type: 'downtime-exceeded', limitMs, downtimeMs, term });
    }
    const { pages, savedBytes, deviceBytes } = meter.totals();
    const { wireBytes } = session;
    return {
      migrationId: options.migrationId,
      totalMs: meter.elapsedMs,
      downtimeMs,
      predictedDowntimeMs: this.#predictedMs,
      predictedDowntimeRangeMs,
      downtime: compareTerms(prediction, predictionRange, terms),
      verifyMs,
      heldMs,
      verified: verify,
      verifiedPages: this.#times.verifiedPages,
      rounds: records,
      pages,
      rawBytes: allPages(pages) * vm.memory.pageSize,
      savedBytes,
      wireBytes,
      deviceBytes,
      outsideRoundsBytes: wireBytes - meter.roundBytes,
      attempts: attempts.failed.map(({ attempt, term, pausedMs, reason }) => ({
        ...{ attempt, term, pausedMs },
        code: reason.code,
        message: reason.message,
      })),
      throttledMs: throttle.throttledMs,
      shadows: shadows.reports,
      runState: this.#times.runState,
      postcopy: context.postcopyReport,
    };
  }
}

/** Sends `released`, which tells the destination that it has the only copy of the guest, and closes the connection. */
export async function sendReleased({ session, options }: SourceContext): Promise<void> {
  const control = session.current?.control;
  session.phase = 'release';
  if (control !== undefined) await settledWithin(control.write({ type: 'released' }), options.clock, CLOSING_MS);
  await session.close(undefined);
}
