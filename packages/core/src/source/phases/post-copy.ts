import type { RoundRecord } from '../../round-record.js';
import type { HandedOver, PausedTimes } from '../paused-times.js';
import { sendMissing } from '../send-missing.js';
import type { SourceContext, SourcePhase } from '../source-context.js';

/**
 * The guest runs at the destination, where pages are missing. The source keeps its guest paused and its memory in place, sends the
 * owed pages and answers requests, until the destination says that no page is missing.
 */
export class PostCopy implements SourcePhase {
  readonly name = 'post-copy';
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

  async run(context: SourceContext): Promise<SourcePhase> {
    await sendMissing(context);
    return context.phases.release(this.#record, this.#times, this.#handed, this.#predictedMs);
  }
}
