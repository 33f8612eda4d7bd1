import { PATIENCE, type PolicyMoment, type RoundOutcome } from '../convergence/policy.js';
import type { Decision, RoundRecord } from '../round-record.js';
import { isForced, type PauseDecision, pauseLimitOf, pauses } from './attempt-limits.js';
import { BetweenRounds, GATED_MS } from './between-rounds.js';
import type { MidRound } from './mid-round.js';
import { opinion } from './opinion.js';
import { predictedAgain } from './outcome-now.js';
import type { SourceContext } from './source-context.js';

/** The reason why a switchover has to wait. */
interface Obstacle {
  readonly gate: 'readiness' | 'other';
  readonly why: string;
}

/** A decision, and the round's outcome with the prediction on which the decision was made. */
export interface Judged {
  readonly decision: Decision;
  readonly outcome: RoundOutcome;
}

/** The most rounds in a policy's history. */
const MOST_HISTORY = 1000;

/**
 * Decides after each round whether to go on, switch over or abort. The policy says when to switch over; the switchover then waits, with
 * the guest running, for anything that would lengthen the pause: the destination's readiness, a device that blocks it, the back-off
 * after an attempt that was given up.
 */
export class Switchover implements MidRound {
  readonly #context: SourceContext;
  readonly #history: RoundRecord[];
  readonly #between: BetweenRounds;
  #gate: Obstacle['gate'] | undefined;
  #reported = false;
  /** The switchover that waits at the gate. */
  #waiting: PauseDecision | undefined;
  /** The decision for which the running round was ended early. */
  #cutFor: PauseDecision | undefined;

  constructor(context: SourceContext) {
    this.#context = context;
    this.#history = [...context.records];
    this.#between = new BetweenRounds(context);
    this.#ask();
  }

  /** Whether devices may yield more state in the next round. False while the destination is still loading the state that it has. */
  get offersDevices(): boolean {
    return this.#gate !== 'readiness';
  }

  /**
   * The decision after this round, at whose end `pages` would have been left if the guest had been paused. Rejects with the first cause once
   * the migration ends, or the guest has ended.
   */
  async after(outcome: RoundOutcome, pages: number): Promise<Judged> {
    const { session, requests, readiness } = this.#context;
    session.signal.throwIfAborted();
    this.#context.guest.checkAlive();
    this.#ask();
    const cutFor = this.#cutFor;
    this.#cutFor = undefined;
    this.#gate = undefined;
    this.#waiting = undefined;
    let judged = outcome;
    for (;;) {
      const { said, wanted } = this.#judge(judged, cutFor);
      if (!pauses(wanted)) return { decision: wanted, outcome: judged };
      const { answers } = readiness;
      const obstacle = await this.#obstacle(wanted, true);
      if (obstacle !== undefined) {
        // A requested switchover waits, but the policy may still abort.
        if (said?.action === 'abort') return { decision: said, outcome: judged };
        this.#gate = obstacle.gate;
        this.#waiting = wanted;
        const reason = `${wanted.reason}; it waits: ${obstacle.why}`;
        return { decision: { action: 'continue', reason }, outcome: judged };
      }
      if (readiness.answers === answers) {
        requests.taken();
        return { decision: wanted, outcome: judged };
      }
      // The destination has said meanwhile how long it takes to load and to resume: the decision was made without that.
      judged = predictedAgain(this.#context, outcome, pages);
    }
  }

  #judge(outcome: RoundOutcome, cutFor: PauseDecision | undefined) {
    const { session, options } = this.#context;
    const said = opinion(this.#context, 'round-end', outcome, this.#history);
    session.signal.throwIfAborted();
    const stands = cutFor !== undefined && said === undefined && stillHolds(cutFor, outcome, options.downtimeLimitMs);
    const wanted = this.#requested('round-end', outcome) ?? (stands ? cutFor : said) ?? this.#byDefault(outcome);
    return { said, wanted };
  }

  inRound(
    moment: PolicyMoment,
    outcome: RoundOutcome,
  ): { readonly wanted: PauseDecision | undefined; readonly said: Decision | undefined } {
    const said = opinion(this.#context, moment, outcome, this.#history);
    return { wanted: this.#requested(moment, outcome) ?? (pauses(said) ? said : undefined), said };
  }

  async mayBegin(wanted: PauseDecision): Promise<boolean> {
    return (await this.#obstacle(wanted, false)) === undefined;
  }

  cutFor(wanted: PauseDecision): void {
    this.#cutFor = wanted;
  }

  /** The time between two rounds. `now` returns the outcome to judge meanwhile; the policy is asked every 100 ms. */
  async untilNext(record: RoundRecord, now?: () => RoundOutcome): Promise<void> {
    this.#history.push(record);
    if (this.#history.length > MOST_HISTORY) this.#history.shift();
    if (pauses(record.decision) || record.decision.action === 'abort') return;
    const waiting = this.#waiting;
    await this.#between.wait(record, this.#gate, async () => {
      const wanted = now === undefined ? undefined : this.inRound('in-round', now()).wanted;
      if (wanted !== undefined && (await this.mayBegin(wanted))) return true;
      return this.#gate === 'other' && waiting !== undefined && (await this.mayBegin(waiting));
    });
  }

  #ask(): void {
    const { session, readiness, devices } = this.#context;
    const connection = session.current;
    if (connection === undefined || connection.signal.aborted) return;
    readiness.ask(connection, session.attempt, devices.sequences);
  }

  /** The switchover that the embedder has asked for, if it may begin now. */
  #requested(moment: PolicyMoment, outcome: RoundOutcome): PauseDecision | undefined {
    const { options, requests } = this.#context;
    const asked = requests.switchover;
    if (asked === undefined) return undefined;
    if (asked.postcopy) return { action: 'postcopy', reason: 'startPostcopy() was called' };
    const known = outcome.linkBytesPerSecond > 0;
    const fits = asked.force || (known && outcome.predictedDowntimeMs <= pauseLimitOf(options));
    if (moment !== 'round-end' && !fits) return undefined;
    return { action: 'switchover', force: asked.force, reason: 'switchOver() was called' };
  }

  /** The decision at a round's end when the policy has no opinion. */
  #byDefault(outcome: RoundOutcome): Decision {
    const { attempts, options } = this.#context;
    if (attempts.overruns >= PATIENCE) return { action: 'abort', reason: this.#outOfPatience() };
    return {
      action: 'continue',
      reason: `predicted downtime ${outcome.predictedDowntimeMs.toFixed(1)} ms exceeds the limit of ${options.downtimeLimitMs} ms`,
    };
  }

  #outOfPatience(): string {
    const { attempts, options } = this.#context;
    const last = attempts.failed.at(-1);
    return (
      `${attempts.overruns} switchovers were given up, the last one since ${last?.reason.message ?? 'it took too long'}; ` +
      `raise downtimeLimitMs (${options.downtimeLimitMs} ms) or pauseLimitMs, or use \`force\``
    );
  }

  /** The first obstacle to the switchover; `undefined` when it may begin. */
  async #obstacle(wanted: PauseDecision, wait: boolean): Promise<Obstacle | undefined> {
    const { attempts, devices, guest, session, requests, options, rehearsal } = this.#context;
    const forced = isForced(wanted);
    const askedFor = requests.switchover !== undefined;
    if (!guest.settled) return { gate: 'other', why: 'pause() has not returned' };
    if (!(await rehearsal.stop())) return { gate: 'other', why: 'rehearsePause() has not returned' };
    const blocker = await devices.switchoverBlocker(session.signal, forced);
    if (blocker !== undefined) return { gate: 'other', why: blocker };
    const { backOffMs } = attempts;
    if (backOffMs > 0 && !forced && !askedFor) {
      return { gate: 'other', why: `${backOffMs.toFixed(0)} ms until another attempt` };
    }
    if (options.force || (forced && askedFor)) return undefined;
    const why = await this.#unprepared(forced, wait);
    return why === undefined ? undefined : { gate: 'readiness', why };
  }

  async #unprepared(forced: boolean, wait: boolean): Promise<string | undefined> {
    const { readiness, session, devices, options, emit } = this.#context;
    const { clock, readinessTimeoutMs } = options;
    const prepared = () =>
      session.current !== undefined && readiness.isPrepared(session.current, session.attempt, devices.sequences);
    if (wait && !prepared()) {
      const enough = new AbortController();
      await Promise.race([readiness.changed(enough.signal), clock.sleep(GATED_MS, enough.signal).catch(() => {})]);
      enough.abort();
    }
    session.signal.throwIfAborted();
    const { waitedMs } = readiness;
    if (prepared()) {
      if (this.#reported) emit({ type: 'prepared', waitedMs });
      this.#reported = false;
      return undefined;
    }
    if (waitedMs >= readinessTimeoutMs) {
      if (!this.#reported) emit({ type: 'not-prepared', waitedMs });
      this.#reported = true;
      if (forced) return undefined;
    }
    return `the destination has not said "prepared" for ${waitedMs.toFixed(0)} ms`;
  }
}

/**
 * Whether the decision for which a round was ended early still holds: the decision was made with the pages owed at that time, and the
 * policy has no opinion on the present ones.
 */
function stillHolds(decision: PauseDecision, outcome: RoundOutcome, downtimeLimitMs: number): boolean {
  if (isForced(decision) || decision.action === 'postcopy') return true;
  const own = decision.action === 'switchover' ? decision.downtimeLimitMs : undefined;
  return outcome.predictedDowntimeMs <= (own ?? downtimeLimitMs);
}
