import { PATIENCE, type RoundOutcome } from '../convergence/policy.js';
import type { Decision, RoundRecord } from '../round-record.js';
import type { SourceContext } from './source-context.js';

/** A guest that dirties a handful of pages would otherwise keep both sides busy with thousands of rounds a second. */
const SHORTEST_ROUND_MS = 10;

/** How long a switchover that waits for something is put off at a time: a round that sends what was written comes between. */
const GATED_MS = 100;

/** Rounds that a policy can look back on. */
const MOST_HISTORY = 1000;

/**
 * Decides after each round. The policy says when to switch over; the switchover then waits, with the guest running, for all that
 * would otherwise be waited for with the guest paused: the destination's readiness, a device that vetoes, the back-off of an
 * attempt that was given up.
 */
export class Switchover {
  readonly #context: SourceContext;
  readonly #history: RoundRecord[];
  /** The switchover waits for something. */
  #gated = false;
  /** The destination is to catch up: devices offer nothing new meanwhile. */
  #catchingUp = false;
  #reported = false;

  constructor(context: SourceContext) {
    this.#context = context;
    this.#history = [...context.records];
    this.#ask();
  }

  /** Whether devices may yield more state in the next round. */
  get offersDevices(): boolean {
    return !this.#catchingUp;
  }

  async after(outcome: RoundOutcome): Promise<Decision> {
    const { session, wishes } = this.#context;
    session.signal.throwIfAborted();
    this.#context.guest.checkAlive();
    this.#ask();
    const wanted = this.#wanted(outcome);
    this.#gated = false;
    if (wanted.action !== 'switchover') {
      this.#catchingUp = false;
      return wanted;
    }
    const obstacle = await this.#obstacle(wanted);
    if (obstacle === undefined) {
      this.#catchingUp = false;
      wishes.taken();
      return wanted;
    }
    this.#gated = true;
    return { action: 'continue', reason: `${wanted.reason}; it waits: ${obstacle}` };
  }

  /** The time between two rounds. */
  async untilNext(record: RoundRecord): Promise<void> {
    const { options, session, readiness, wishes } = this.#context;
    this.#history.push(record);
    if (this.#history.length > MOST_HISTORY) this.#history.shift();
    if (record.decision.action !== 'continue') return;
    const least = SHORTEST_ROUND_MS - record.totalMs;
    const pause = this.#gated ? Math.max(least, GATED_MS) : least;
    if (pause <= 0) return;
    const enough = new AbortController();
    const stop = () => enough.abort(session.signal.reason);
    session.signal.addEventListener('abort', stop, { once: true });
    const sleeping = options.clock.sleep(pause, enough.signal).catch(() => {});
    try {
      if (this.#gated) await Promise.race([sleeping, readiness.changed(enough.signal), wishes.asked()]);
      else await sleeping;
    } finally {
      enough.abort();
      session.signal.removeEventListener('abort', stop);
    }
    session.signal.throwIfAborted();
  }

  #ask(): void {
    const { session, readiness, devices } = this.#context;
    const connection = session.current;
    if (connection === undefined || connection.signal.aborted) return;
    readiness.ask(connection, session.attempt, devices.sequences);
  }

  #wanted(outcome: RoundOutcome): Decision {
    const { options, meter, wishes, attempts, readiness } = this.#context;
    const { downtimeLimitMs, policy } = options;
    const asked = wishes.switchover;
    if (asked !== undefined) return { action: 'switchover', force: asked.force, reason: 'switchOver() was called' };
    const opinion = policy({
      outcome,
      history: this.#history,
      downtimeLimitMs,
      elapsedMs: meter.elapsedMs,
      overruns: attempts.overruns,
      unpreparedMs: readiness.waitedMs,
    });
    if (opinion !== undefined) return opinion;
    if (attempts.overruns >= PATIENCE) return { action: 'abort', reason: this.#outOfPatience() };
    return {
      action: 'continue',
      reason: `predicted downtime ${outcome.predictedDowntimeMs.toFixed(1)} ms exceeds the limit of ${downtimeLimitMs} ms`,
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

  /** What the switchover has to wait for, in words; `undefined` when it may begin. */
  async #obstacle(wanted: Extract<Decision, { action: 'switchover' }>): Promise<string | undefined> {
    const { attempts, devices, guest, session, wishes, options } = this.#context;
    const forced = wanted.force === true;
    const askedFor = wishes.switchover !== undefined;
    if (!guest.settled) return 'pause() has not returned';
    const blocker = await devices.switchoverBlocker(session.signal);
    if (blocker !== undefined) return blocker;
    const { backOffMs } = attempts;
    if (backOffMs > 0 && !forced && !askedFor) return `${backOffMs.toFixed(0)} ms until another attempt`;
    if (options.force || (forced && askedFor)) return undefined;
    return this.#unprepared(forced);
  }

  async #unprepared(forced: boolean): Promise<string | undefined> {
    const { readiness, session, devices, options, emit } = this.#context;
    const { clock, readinessTimeoutMs } = options;
    const prepared = () =>
      session.current !== undefined && readiness.isPrepared(session.current, session.attempt, devices.sequences);
    this.#catchingUp = true;
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
