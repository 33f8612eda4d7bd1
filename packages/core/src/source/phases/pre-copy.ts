import { lastValueFrom, tap } from 'rxjs';
import type { DirtyBitmaps } from '../../memory/dirty-bitmaps.js';
import { populatedBitmaps } from '../../memory/populated-pages.js';
import { Switchover } from '../decide.js';
import { settleGivenUp } from '../go-back.js';
import { type Harvest, Harvester } from '../harvester.js';
import { notConverging } from '../not-converging.js';
import { precopyRounds } from '../precopy-rounds.js';
import { roundEnded, roundStarted } from '../round-events.js';
import { DestinationRestarted } from '../round-transfer.js';
import type { GivenUp, SourceContext, SourcePhase } from '../source-context.js';

/**
 * Sends all populated memory, and then, round by round, the pages that the guest writes meanwhile, until a switchover is
 * decided. After a stop-and-copy that was given up, it goes on with the pages that are still owed.
 */
export class PreCopy implements SourcePhase {
  readonly name = 'pre-copy';
  readonly #givenUp: GivenUp | undefined;

  constructor(givenUp?: GivenUp) {
    this.#givenUp = givenUp;
  }

  async run(context: SourceContext): Promise<SourcePhase> {
    const { session, rounds } = context;
    let givenUp = this.#givenUp;
    let pending: Harvest | undefined;
    for (;;) {
      try {
        if (givenUp !== undefined) pending = await settleGivenUp(context, givenUp);
        givenUp = undefined;
        pending ??= await this.#populated(context);
        context.limit.restart();
        const last = await lastValueFrom(
          precopyRounds(pending, {
            context,
            decide: new Switchover(context),
            send: (dirtyPages, offer, cut, onRoundTrip) => {
              roundStarted(context, dirtyPages);
              return rounds.send(offer, cut, onRoundTrip);
            },
          }).pipe(tap(({ record }) => roundEnded(context, record))),
        );
        const { record } = last;
        if (record.decision.action === 'abort') throw notConverging(record.decision, context);
        pending = last.pending;
        const connection = session.current;
        // If the link was lost after the decision, another round reconnects with the guest running, and the decision is made
        // again.
        if (connection !== undefined && !connection.signal.aborted) {
          return context.phases.stopAndCopy(last, connection);
        }
      } catch (error) {
        if (!(error instanceof DestinationRestarted)) throw error;
        givenUp = undefined;
        pending = undefined;
        context.model.restarted();
        context.queue.clear();
        const { vm, queue, tracker, options, harvester, namedFree } = context;
        const written = (pages: DirtyBitmaps) => namedFree.written(pages);
        context.harvester = new Harvester(vm.memory, queue, tracker, options.clock, written, harvester);
      }
    }
  }

  /** Every page is accounted for in round 1, whatever was migrated before: those that the guest has freed count as holes. */
  async #populated({ vm, options, session, queue, meter, namedFree }: SourceContext): Promise<Harvest> {
    await namedFree.collect(session.signal);
    const start = options.clock.now();
    await populatedBitmaps(vm.memory, queue.owed, options.clock, session.signal);
    if (namedFree.pages !== undefined) queue.owed.andNot(namedFree.pages);
    const harvestMs = options.clock.now() - start;
    const dirtyPages = queue.count();
    meter.harvested(dirtyPages);
    return {
      ...{ fresh: queue.owed, freshPages: dirtyPages, dirtyPages, pagesWhenStopped: dirtyPages },
      ...{ trackers: [], harvestMs, sinceMs: 0 },
    };
  }
}
