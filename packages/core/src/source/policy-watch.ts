import type { PolicyMoment } from '../convergence/policy.js';
import { GodwitError } from '../errors.js';
import type { Decision } from '../round-record.js';
import type { PauseDecision } from './attempt-limits.js';
import type { MidRound, RoundCuts } from './mid-round.js';
import { notConverging } from './not-converging.js';
import { opinion } from './opinion.js';
import { outcomeNow } from './outcome-now.js';
import type { SourceContext } from './source-context.js';

/** How often a policy is asked while the guest runs, in milliseconds. */
const ASK_MS = 100;

/** The reason of the signal that ends a round early. */
export class RoundCut extends Error {
  override readonly name = 'RoundCut';
}

/** A round that is being sent. */
interface RunningRound {
  readonly decide: MidRound;
  readonly cut: AbortController;
  readonly startedAt: number;
  /** The wire bytes and the time at which the carriers' buffers were full: from then on bytes go out at the rate of the link. */
  filled?: { readonly bytes: number; readonly at: number };
}

/**
 * Asks the policy for as long as the guest runs here and the migration goes on, whatever the migration waits for: every 100 ms, when
 * the time budget is used up, and at once when a limit is changed or a switchover is requested. Ends the running round early when a
 * switchover may begin, and the migration when the policy gives up, throws, or returns no valid decision.
 */
export class PolicyWatch implements RoundCuts {
  readonly #parts: () => SourceContext;
  #round: RunningRound | undefined;
  /** True while `mayBegin` is pending. */
  #checking = false;

  /** `context` is called only when the context is complete. */
  constructor(context: () => SourceContext) {
    this.#parts = context;
  }

  get #context(): SourceContext {
    return this.#parts();
  }

  roundBegins(decide: MidRound): AbortSignal {
    const cut = new AbortController();
    const { options, requests } = this.#context;
    this.#round = { decide, cut, startedAt: options.clock.now() };
    // A switchover that was requested before this round is decided about now, and not at the next time that the policy is asked.
    if (requests.switchover !== undefined) requests.adjusted();
    return cut.signal;
  }

  roundEnds(): void {
    this.#round = undefined;
  }

  async run(over: AbortSignal): Promise<void> {
    const { ownership, session, throttle, rehearsal } = this.#context;
    while (!over.aborted) {
      const moment = await this.#next(over);
      if (over.aborted || session.signal.aborted) return;
      // While the guest is paused, the bound of the pause applies, and there is nothing to decide.
      if (ownership.state !== 'running') continue;
      try {
        throttle.refresh();
        this.#ask(moment);
        // A round that is being sent is not followed by a pause at once: none is begun after `roundEnds`.
        if (this.#round !== undefined && !this.#checking) rehearsal.begin();
      } catch (error) {
        // The session ends with this error, which every pending wait of the migration then rejects with.
        session.end.set(GodwitError.wrap(error, 'GODWIT_INTERNAL', 'the policy could not be asked'));
        return;
      }
    }
  }

  /** Waits for the next moment to ask. */
  async #next(over: AbortSignal): Promise<PolicyMoment> {
    const { requests, options, meter, model } = this.#context;
    const { clock, timeBudgetMs } = options;
    const left = timeBudgetMs === undefined ? 0 : timeBudgetMs - meter.elapsedMs;
    const waiting = new AbortController();
    const stop = () => waiting.abort();
    over.addEventListener('abort', stop, { once: true });
    const asked = requests.asked(waiting.signal).then(() => 'adjusted' as const);
    const due = clock.now() + (left > 0 ? Math.min(ASK_MS, left) : ASK_MS);
    const slept = clock.sleep(due - clock.now(), waiting.signal).then(
      () => {
        model.woke(clock.now() - due);
        return 'in-round' as const;
      },
      () => 'in-round' as const,
    );
    const moment: PolicyMoment = await Promise.race([asked, slept]);
    waiting.abort();
    over.removeEventListener('abort', stop);
    return moment;
  }

  #ask(moment: PolicyMoment): void {
    const round = this.#round;
    const outcome = outcomeNow(this.#context, round && this.#bytesPerSecond(round));
    if (round === undefined) {
      const said = opinion(this.#context, moment, outcome, this.#context.records);
      if (said?.action === 'abort') throw notConverging(said, this.#context);
      return;
    }
    const { wanted, said } = round.decide.inRound(moment, outcome);
    const abort = said?.action === 'abort' ? said : undefined;
    // A requested switchover comes before the policy's opinion, unless something keeps it from beginning.
    if (abort !== undefined && (wanted === undefined || this.#checking)) {
      throw notConverging(abort, this.#context);
    }
    if (wanted !== undefined && !this.#checking) void this.#cutIfPossible(round, wanted, abort);
  }

  async #cutIfPossible(round: RunningRound, wanted: PauseDecision, otherwise: Decision | undefined): Promise<void> {
    const { session } = this.#context;
    this.#checking = true;
    try {
      // A device's answer about blockers may hang; the policy is asked nevertheless.
      const may = await round.decide.mayBegin(wanted);
      if (this.#round !== round) return;
      if (!may && otherwise !== undefined) throw notConverging(otherwise, this.#context);
      if (!may) return;
      round.decide.cutFor(wanted);
      round.cut.abort(new RoundCut('the policy wants to switch over'));
    } catch (error) {
      if (this.#round !== round) return;
      session.end.set(GodwitError.wrap(error, 'GODWIT_INTERNAL', 'what blocks a switchover could not be found out'));
    } finally {
      this.#checking = false;
    }
  }

  /** The rate of the round that is being sent, waits for the bandwidth limit included; `undefined` at first. */
  #bytesPerSecond(round: RunningRound): number | undefined {
    const { meter, options } = this.#context;
    const now = options.clock.now();
    if (now - round.startedAt < ASK_MS / 2) return undefined;
    const { wireBytes } = meter.totals();
    round.filled ??= { bytes: wireBytes, at: now };
    const { bytes, at } = round.filled;
    return now > at ? ((wireBytes - bytes) / (now - at)) * 1000 : undefined;
  }
}
