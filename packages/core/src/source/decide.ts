import { fixedDowntime } from '../convergence/downtime-model.js';
import { PATIENCE, type PolicyMoment, type RoundOutcome } from '../convergence/policy.js';
import type { Decision, RoundRecord } from '../round-record.js';
import { askPolicy } from './ask-policy.js';
import { BetweenRounds, GATED_MS } from './between-rounds.js';
import { notConverging } from './not-converging.js';
import { pauseLimitOf } from './options.js';
import type { SourceContext } from './source-context.js';

/** Why a switchover has to wait. */
interface Obstacle {
  readonly gate: 'readiness' | 'other';
  readonly why: string;
}

/** Most rounds in the history that a policy is given. */
const MOST_HISTORY = 1000;

/**
 * Decides after each round whether to go on, switch over or abort. The policy says when to switch over; the switchover then waits,
 * with the guest running, for whatever would otherwise lengthen the pause: the destination's readiness, a device that blocks it,
 * the back-off after an attempt that was given up.
 */
export class Switchover {
  readonly #context: SourceContext;
  readonly #history: RoundRecord[];
  readonly #between: BetweenRounds;
  #gate: Obstacle['gate'] | undefined;
  #reported = false;
  /** The limit can be reached, as far as was told. */
  #reachable = true;

  constructor(context: SourceContext) {
    this.#context = context;
    this.#history = [...context.records];
    this.#between = new BetweenRounds(context);
    this.#ask();
  }

  /** Whether devices may yield more state in the next round. False while the destination is still loading what it has. */
  get offersDevices(): boolean {
    return this.#gate !== 'readiness';
  }

  /** The decision after this round. Rejects with the first cause once the migration ends, or the guest has ended. */
  async after(outcome: RoundOutcome): Promise<Decision> {
    const { session, requests } = this.#context;
    session.signal.throwIfAborted();
    this.#context.guest.checkAlive();
    this.#ask();
    this.#checkReachable(outcome);
    const wanted = this.#wanted('round-end', outcome);
    this.#gate = undefined;
    if (wanted.action !== 'switchover') return wanted;
    const obstacle = await this.#obstacle(wanted);
    if (obstacle === undefined) {
      requests.taken();
      return wanted;
    }
    this.#gate = obstacle.gate;
    return { action: 'continue', reason: `${wanted.reason}; it waits: ${obstacle.why}` };
  }

  /**
   * While a round is sent: whether it is to end early, since a switchover may begin at once. Throws when the policy gives up, throws, or
   * returns what is no decision.
   */
  async inRound(moment: PolicyMoment, outcome: RoundOutcome): Promise<boolean> {
    const wanted = this.#wanted(moment, outcome);
    if (wanted.action === 'abort') throw notConverging(wanted, this.#context.meter.last);
    return wanted.action === 'switchover' && (await this.#obstacle(wanted)) === undefined;
  }

  /** The time between two rounds. `now` returns what there is to judge in between; the policy is asked every 100 ms. */
  async untilNext(record: RoundRecord, now?: () => RoundOutcome): Promise<void> {
    this.#history.push(record);
    if (this.#history.length > MOST_HISTORY) this.#history.shift();
    if (record.decision.action !== 'continue') return;
    await this.#between.wait(record, this.#gate, async () => {
      if (now !== undefined && (await this.inRound('in-round', now()))) return true;
      return this.#gate === 'other' && (await this.#obstacle(record.decision)) === undefined;
    });
  }

  #ask(): void {
    const { session, readiness, devices } = this.#context;
    const connection = session.current;
    if (connection === undefined || connection.signal.aborted) return;
    readiness.ask(connection, session.attempt, devices.sequences);
  }

  #wanted(moment: PolicyMoment, outcome: RoundOutcome): Decision {
    const { vm, options, meter, model, requests, attempts, readiness } = this.#context;
    const { downtimeLimitMs, policy } = options;
    const asked = requests.switchover;
    if (asked !== undefined) {
      const known = outcome.linkBytesPerSecond > 0;
      const fits = asked.force || (known && outcome.predictedDowntimeMs <= pauseLimitOf(options));
      if (moment === 'round-end' || fits) {
        return { action: 'switchover', force: asked.force, reason: 'switchOver() was called' };
      }
    }
    const opinion = askPolicy(policy, {
      moment,
      outcome,
      history: this.#history,
      downtimeLimitMs,
      fixedDowntimeMs: fixedDowntime(outcome.prediction),
      elapsedMs: meter.elapsedMs,
      timeBudgetMs: options.timeBudgetMs,
      throttle: 0,
      canThrottle: false,
      canPostcopy: false,
      bandwidthLimit: options.bandwidthLimit,
      pagesPerSecond: model.pagesPerSecond(options.bandwidthLimit),
      pageSize: vm.memory.pageSize,
      overruns: attempts.overruns,
      unpreparedMs: readiness.waitedMs,
    });
    if (opinion !== undefined) return opinion;
    if (attempts.overruns >= PATIENCE && moment === 'round-end')
      return { action: 'abort', reason: this.#outOfPatience() };
    return {
      action: 'continue',
      reason: `predicted downtime ${outcome.predictedDowntimeMs.toFixed(1)} ms exceeds the limit of ${downtimeLimitMs} ms`,
    };
  }

  /** Tells once when the limit cannot be reached, whatever is sent. */
  #checkReachable({ prediction }: RoundOutcome): void {
    const { options, emit } = this.#context;
    const fixedMs = fixedDowntime(prediction);
    const limitMs = options.downtimeLimitMs;
    const reachable = fixedMs <= limitMs;
    if (!reachable && this.#reachable) {
      emit({ type: 'limit-unreachable', code: 'GODWIT_LIMIT_UNREACHABLE', limitMs, fixedMs, terms: prediction });
    }
    this.#reachable = reachable;
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
  async #obstacle(wanted: Decision): Promise<Obstacle | undefined> {
    const { attempts, devices, guest, session, requests, options } = this.#context;
    const forced = (wanted as { readonly force?: boolean }).force === true;
    const askedFor = requests.switchover !== undefined;
    if (!guest.settled) return { gate: 'other', why: 'pause() has not returned' };
    const blocker = await devices.switchoverBlocker(session.signal, forced);
    if (blocker !== undefined) return { gate: 'other', why: blocker };
    const { backOffMs } = attempts;
    if (backOffMs > 0 && !forced && !askedFor) {
      return { gate: 'other', why: `${backOffMs.toFixed(0)} ms until another attempt` };
    }
    if (options.force || (forced && askedFor)) return undefined;
    const why = await this.#unprepared(forced);
    return why === undefined ? undefined : { gate: 'readiness', why };
  }

  async #unprepared(forced: boolean): Promise<string | undefined> {
    const { readiness, session, devices, options, emit } = this.#context;
    const { clock, readinessTimeoutMs } = options;
    const prepared = () =>
      session.current !== undefined && readiness.isPrepared(session.current, session.attempt, devices.sequences);
    if (!prepared()) {
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
