import type { RoundRecord } from '../round-record.js';

/** The fields of a round from which the limits are computed that would have sufficed. */
type Round = Pick<
  RoundRecord,
  | 'phase'
  | 'dirtyPages'
  | 'rawBytes'
  | 'wireBytes'
  | 'newlyDirtyPages'
  | 'linkBytesPerSecond'
  | 'dirtyPagesPerSecond'
  | 'throttle'
  | 'predictedDowntimeMs'
  | 'prediction'
>;

/**
 * Says in words what would have made a migration converge: how fast the guest dirties pages, how many of them the link carries, and
 * which downtime limit would have sufficed at the best moment. The two rates are those of the last round; the limit is computed
 * from all rounds.
 */
export function whatWouldConverge(
  rounds: readonly Round[],
  { downtimeLimitMs, bandwidthLimit }: { readonly downtimeLimitMs: number; readonly bandwidthLimit: number },
): string {
  const sent = rounds.filter(({ phase, dirtyPages }) => phase !== 'stop-and-copy' && dirtyPages > 0);
  const last = sent.at(-1);
  if (last === undefined && rounds.length > 0)
    return `no round had a page to send; ${whichLimit(rounds, downtimeLimitMs)}`;
  if (last === undefined) {
    return 'the first round, which sends every page once, was not complete: a longer time or a faster link would have let it go on';
  }
  const { dirtyPages, rawBytes, wireBytes, dirtyPagesPerSecond, linkBytesPerSecond, throttle } = last;
  const bytesPerPage = wireBytes / dirtyPages;
  const limited = bandwidthLimit > 0 && bandwidthLimit < linkBytesPerSecond;
  const carried = limited ? bandwidthLimit : linkBytesPerSecond;
  const heldBack = throttle > 0 ? ` while it is held back by ${Math.round(throttle * 100)} %` : '';
  const rates =
    `the guest dirties ${perSecond(dirtyPagesPerSecond, rawBytes / dirtyPages)}${heldBack}, ` +
    `${limited ? `bandwidthLimit lets` : 'the link carries'} ${perSecond(bytesPerPage > 0 ? carried / bytesPerPage : 0, bytesPerPage)}` +
    `${limited ? ' through' : ''}`;
  return `${rates}; ${whichLimit(sent, downtimeLimitMs)}`;
}

function whichLimit(rounds: readonly Round[], limitMs: number): string {
  const best = rounds.reduce((least, round) => (round.predictedDowntimeMs < least.predictedDowntimeMs ? round : least));
  const leastMs = Math.ceil(best.predictedDowntimeMs);
  if (best.predictedDowntimeMs <= limitMs) return `at best ${leastMs} ms of downtime were predicted, within the limit`;
  const fixedMs = Math.ceil(best.predictedDowntimeMs - best.prediction.ramMs);
  const fixed = fixedMs > limitMs ? `, of which ${fixedMs} ms are no RAM, which no round lowers` : '';
  return `a downtimeLimitMs of ${leastMs} would have sufficed (${limitMs} was given) at the best moment${fixed}`;
}

function perSecond(pages: number, bytesPerPage: number): string {
  return `${Math.round(pages)} pages/s (${((pages * bytesPerPage) / 2 ** 20).toFixed(1)} MiB/s)`;
}
