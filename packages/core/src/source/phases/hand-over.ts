import { totalDowntime } from '../../convergence/downtime-model.js';
import type { GodwitError } from '../../errors.js';
import type { RoundRecord } from '../../round-record.js';
import { askForTransfer } from '../ask-for-transfer.js';
import type { PausedTimes } from '../paused-times.js';
import { sendGo, settleAfterGo } from '../settlement.js';
import type { SourceConnection } from '../source-connection.js';
import type { GivenUp, SourceContext, SourcePhase } from '../source-context.js';

/**
 * Asks the ownership authority for the transfer, which is the point of no return, sends `go`, and finds out whether the guest runs
 * at the destination. Only a definite refusal of the authority leads back to pre-copy.
 */
export class HandOver implements SourcePhase {
  readonly name = 'hand-over';
  readonly #connection: SourceConnection;
  readonly #record: RoundRecord;
  readonly #times: PausedTimes;
  readonly #giveUp: (reason: GodwitError) => Promise<GivenUp>;

  /** `giveUp` gives up the stop-and-copy; it resolves with the values with which pre-copy goes on. */
  constructor(
    connection: SourceConnection,
    record: RoundRecord,
    times: PausedTimes,
    giveUp: (reason: GodwitError) => Promise<GivenUp>,
  ) {
    this.#connection = connection;
    this.#record = record;
    this.#times = times;
    this.#giveUp = giveUp;
  }

  async run(context: SourceContext): Promise<SourcePhase> {
    const { ownership, options, session } = context;
    // The transfer begins in the same tick as the last check of the bound.
    ownership.apply('transfer');
    const refused = await askForTransfer(context);
    if (refused !== undefined) return context.phases.preCopy(await this.#giveUp(refused));
    context.transferred = true;
    const predicted = totalDowntime(this.#record.prediction);
    try {
      ownership.apply('go');
      session.phase = 'handing-over';
      const handed = await sendGo(this.#connection, options, this.#times.attempt);
      if (context.byPostcopy) return context.phases.postCopy(this.#record, this.#times, handed, predicted);
      ownership.apply('running');
      return context.phases.release(this.#record, this.#times, handed, predicted);
    } catch (error) {
      const { incomplete, ...handed } = await settleAfterGo(context, this.#connection, error);
      const { postCopy, release } = context.phases;
      return (incomplete ? postCopy : release)(this.#record, this.#times, handed, predicted);
    }
  }
}
