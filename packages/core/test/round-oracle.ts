import type { ConvergencePolicy, Decision, DowntimeRanges, PolicyInput, RoundOutcome, RoundRecord } from '@godwit/core';

/**
 * A migration as a naive calculation, for policies to be judged by: rounds, a link, and a guest that writes pages. It knows nothing of the
 * engine but what a policy is told, and it counts distinct pages by the two closed forms that bound a guest: a sweep and a random choice.
 */
export interface World {
  /** Pages that the first round sends. */
  readonly pages: number;
  /** Pages that go out in a second. */
  readonly link: number;
  /** Pages that the guest writes in a second at full speed, within the working set: a function of the time in ms for one with phases. */
  readonly writes: number | ((ms: number) => number);
  readonly workingSet: number;
  readonly order: 'random' | 'sweep';
  /** What is down beside RAM, in milliseconds. */
  readonly fixedMs?: number;
  /** What a round takes beside sending, in milliseconds; default 10. */
  readonly besideMs?: number;
  readonly limitMs?: number;
  readonly budgetMs?: number;
  readonly canThrottle?: boolean;
  readonly canPostcopy?: boolean;
  /** Part by which rates vary from round to round, and where the numbers come from. */
  readonly noise?: number;
  readonly random?: () => number;
  /** The destination never says that it is prepared: no switchover without `force` happens. */
  readonly unprepared?: boolean;
}

export interface Throttled {
  readonly atMs: number;
  readonly fraction: number;
  /** The least throttle that would have sufficed from then on; above 0.99 when none. */
  readonly needed: number;
}

export interface Outcome {
  readonly end: Decision['action'] | 'never';
  readonly decision: Decision | undefined;
  readonly atMs: number;
  /** What the guest would be down for, by what is owed at the end. */
  readonly downtimeMs: number;
  readonly limitMs: number;
  readonly rounds: readonly RoundRecord[];
  readonly throttled: readonly Throttled[];
  readonly last: PolicyInput | undefined;
}

const ASK_MS = 100;
/** Whoever has not come to an end by then waits for ever. */
const FOR_EVER_MS = 3_600_000;
const MOST_HISTORY = 1000;

interface State {
  readonly owed: number;
  readonly nowMs: number;
  readonly history: readonly RoundRecord[];
}

/** The intervals are of no concern to a policy. */
const NO_RANGES: DowntimeRanges = {
  pauseMs: [0, 0],
  harvestMs: [0, 0],
  ramMs: [0, 0],
  deviceMs: [0, 0],
  loadMs: [0, 0],
  roundTripMs: [0, 0],
  resumeMs: [0, 0],
};

/** Runs a migration under the policy. `judge`: also find out, at each throttle, what would have sufficed. */
export function play(world: World, policy: ConvergencePolicy, judge = false, from?: State, held = 0): Outcome {
  const { link, limitMs = 300, fixedMs = 20, besideMs = 10, noise = 0, random = () => 0.5, order } = world;
  const vary = () => 1 + noise * (2 * random() - 1);
  const rate = typeof world.writes === 'number' ? () => world.writes as number : world.writes;
  const history: RoundRecord[] = [...(from?.history ?? [])];
  const throttled: Throttled[] = [];
  let nowMs = from?.nowMs ?? 0;
  let owed = from?.owed ?? world.pages;
  let throttle = held;
  let round = history.at(-1)?.round ?? 0;
  let last: PolicyInput | undefined;
  let outcome = record(0, { newlyDirtyPages: owed });

  function record(number: number, change: Partial<RoundOutcome>): RoundOutcome {
    const dirty = change.newlyDirtyPages ?? 0;
    const ramMs = dirty === 0 ? 0 : (dirty / link) * 1000 + 1;
    return {
      round: number,
      phase: 'pre-copy',
      dirtyPages: 0,
      deferredPages: 0,
      deviceBytes: 0,
      pages: { raw: 0, zero: 0, hole: 0, delta: 0, compressed: 0 },
      rawBytes: 0,
      wireBytes: 0,
      savedBytes: 0,
      harvestMs: Math.max(0, besideMs - 1),
      scanMs: 0,
      sendMs: 0,
      limitMs: 0,
      totalMs: 0,
      endedAtMs: nowMs,
      linkBytesPerSecond: number === 0 ? 0 : link * 4096,
      trackers: [],
      dirtyPagesPerSecond: 0,
      throttle: 0,
      ...change,
      newlyDirtyPages: dirty,
      predictedDowntimeMs: ramMs + fixedMs,
      predictedDowntimeRangeMs: [ramMs + fixedMs, ramMs + fixedMs],
      predictionRange: NO_RANGES,
      prediction: { pauseMs: fixedMs - 2, harvestMs: 0, ramMs, deviceMs: 0, loadMs: 0, roundTripMs: 2, resumeMs: 0 },
    };
  }

  function ask(moment: PolicyInput['moment'], now: RoundOutcome): Decision | undefined {
    last = {
      moment,
      outcome: now,
      history: history.slice(-MOST_HISTORY),
      downtimeLimitMs: limitMs,
      pauseLimitMs: Math.max(500, 2 * limitMs),
      fixedDowntimeMs: fixedMs,
      elapsedMs: nowMs,
      timeBudgetMs: world.budgetMs,
      throttle,
      canThrottle: world.canThrottle ?? true,
      canPostcopy: world.canPostcopy ?? false,
      bandwidthLimit: 0,
      pagesPerSecond: round === 0 && moment !== 'round-end' ? undefined : link,
      pageSize: 4096,
      overruns: 0,
      unpreparedMs: world.unprepared ? nowMs : 0,
    };
    return policy(last);
  }

  function distinct(writes: number): number {
    const set = world.workingSet;
    return Math.round(order === 'sweep' ? Math.min(set, writes) : set * (1 - Math.exp(-writes / set)));
  }

  /** Takes the decision; true when it is the last one. */
  function ends(decision: Decision | undefined): boolean {
    if (decision === undefined || decision.action === 'continue' || decision.action === 'bandwidth') return false;
    if (decision.action === 'throttle') {
      const needed = judge ? leastThrottle(world, { owed, nowMs, history }) : 0;
      throttled.push({ atMs: nowMs, fraction: decision.fraction, needed });
      throttle = decision.fraction;
      return false;
    }
    return !(world.unprepared && decision.action === 'switchover' && !decision.force);
  }

  const ended = (decision: Decision | undefined): Outcome => ({
    end: decision === undefined ? 'never' : isForced(decision) ? 'force' : decision.action,
    decision,
    atMs: nowMs,
    downtimeMs: (owed / link) * 1000 + fixedMs,
    limitMs,
    rounds: history,
    throttled,
    last,
  });

  // A decision from where the caller has come to: that round was judged already.
  while (nowMs < FOR_EVER_MS) {
    const sending = owed;
    const startMs = nowMs;
    const takesMs = Math.max(10, besideMs + (sending / link) * 1000 * vary());
    let writes = 0;
    let heldMs = 0;
    let cut = false;
    const speed = vary();
    while (nowMs < startMs + takesMs && !cut) {
      const step = Math.min(ASK_MS, startMs + takesMs - nowMs);
      writes += (rate(nowMs) * speed * (1 - throttle) * step) / 1000;
      heldMs += throttle * step;
      nowMs += step;
      const left = Math.round(sending * Math.max(0, 1 - (nowMs - startMs) / takesMs));
      if (step < ASK_MS) continue;
      const guess = Math.round((outcome.dirtyPagesPerSecond * (nowMs - startMs)) / 1000);
      const decision = ask('in-round', { ...outcome, ...owedNow(outcome, record, left + guess) });
      owed = left + distinct(writes);
      if (decision?.action === 'switchover' && !isForced(decision)) cut = !world.unprepared;
      else if (ends(decision)) return ended(decision);
    }
    const tookMs = nowMs - startMs;
    const left = Math.round(sending * Math.max(0, 1 - tookMs / takesMs));
    const dirty = distinct(writes);
    owed = left + dirty;
    round++;
    outcome = record(round, {
      dirtyPages: sending,
      rawBytes: (sending - left) * 4096,
      wireBytes: (sending - left) * 4096,
      totalMs: tookMs,
      newlyDirtyPages: owed,
      dirtyPagesPerSecond: (dirty / tookMs) * 1000,
      throttle: heldMs / tookMs,
    });
    const decision = ask('round-end', outcome);
    history.push({ ...outcome, decision: decision ?? { action: 'continue', reason: '' } });
    if (ends(decision)) return ended(decision);
    if (world.unprepared) nowMs += ASK_MS;
  }
  return ended(undefined);
}

function owedNow(
  last: RoundOutcome,
  record: (round: number, change: Partial<RoundOutcome>) => RoundOutcome,
  owed: number,
) {
  const { newlyDirtyPages, predictedDowntimeMs, prediction } = record(last.round, { newlyDirtyPages: owed });
  return { newlyDirtyPages, predictedDowntimeMs, prediction };
}

export function isForced(decision: Decision): boolean {
  return decision.action === 'force' || (decision.action === 'switchover' && decision.force === true);
}

/** The least throttle with which the migration, held so from this state on, ends within its budget and the limit; 1 when none does. */
function leastThrottle(world: World, from: State): number {
  const { limitMs = 300, budgetMs = FOR_EVER_MS } = world;
  const steady: World = { ...world, noise: 0 };
  const suffices = (fraction: number): boolean => {
    const { end } = play(
      steady,
      ({ moment, outcome, elapsedMs }) => {
        if (elapsedMs + limitMs > budgetMs) return { action: 'abort', reason: 'too late' };
        if (moment !== 'round-end' || outcome.predictedDowntimeMs > limitMs) return undefined;
        return { action: 'switchover', reason: 'within' };
      },
      false,
      from,
      fraction,
    );
    return end === 'switchover';
  };
  if (suffices(0)) return 0;
  let [no, yes] = [0, 1];
  for (let i = 0; i < 9; i++) {
    const half = (no + yes) / 2;
    if (suffices(half)) yes = half;
    else no = half;
  }
  return yes;
}
