import type { DowntimeTerms } from '@godwit/core';
import { ANNOUNCEMENTS, type Distribution, type Spread } from '../distribution.js';
import { formatBytes, formatCount, formatMs } from '../quantity.js';
import { bar } from './chart.js';
import { TERMS } from './news.js';
import { type StyledLine, span, wrap } from './styled-line.js';
import type { ViewState } from './view-state.js';

/** The lines of the result: verified or not, and the predicted and the actual downtime term by term. */
export function summaryLines(view: ViewState, width: number): StyledLine[] {
  if (view.failure !== undefined) {
    const { code, message } = view.failure;
    const [first = [], ...rest] = wrap(message, width - code.length - 6, 0, 'bad');
    // The first line shares its row with the code; the others stand under the message.
    return [
      [span('  ✗ ', 'bad'), span(`${code}: `, 'bold'), ...first],
      ...rest.map((line) => [span(' '.repeat(code.length + 6)), ...line]),
    ];
  }
  const { result } = view;
  if (result === undefined) return [];
  const last = view.hops.at(-1)?.summary;
  const many = result.migrations > 1;
  const lines: StyledLine[] = [
    result.verified
      ? [
          span('  ✓ verified', 'good'),
          span(
            `  ${formatCount(result.pagesCompared)} pages compared, ${formatCount(result.beats)} heartbeats unbroken, ${result.defects} defects`,
          ),
        ]
      : [
          span('  ✗ not verified', 'bad'),
          span(view.guest?.settings.verify === false ? '  as asked with --no-verify' : `  ${result.defects} defects`),
        ],
    [],
    fact(
      many ? 'migrations' : 'total',
      many
        ? `${formatCount(result.migrations)} in ${formatMs(result.totalMs)}`
        : `${formatMs(result.totalMs)}, ${result.rounds} rounds, ${formatBytes(result.wireBytes)} on the wire`,
    ),
    ...(many ? [fact('wire', `${formatBytes(result.wireBytes)}, at most ${result.rounds} rounds a migration`)] : []),
    fact(
      'downtime',
      `${many ? 'at most ' : ''}${formatMs(result.downtimeMs)} at the hosts, ${formatMs(result.guestGapMs)} as the guest's own clock saw it`,
    ),
    fact(
      'comparison',
      `${many ? 'at most ' : ''}${formatMs(result.verifyMs)} with the guest paused, not counted in the downtime`,
    ),
  ];
  if (last !== undefined && last.throttledMs > 0)
    lines.push(
      fact('throttle', `${formatMs(last.throttledMs)} of the guest's time were taken, all vCPUs on the average`),
    );
  if (many) return [...lines, ...distributionLines(result.distribution)];
  if (last === undefined) return lines;
  const longest = Math.max(...Object.values(last.downtime).map(({ actualMs }) => actualMs), 0.001);
  const barWidth = Math.max(4, Math.min(30, width - 50));
  lines.push(
    [],
    [span(`  ${'downtime by term'.padEnd(21)}${'predicted'.padStart(10)}${'actual'.padStart(10)}`, 'dim')],
  );
  for (const term of Object.keys(TERMS) as (keyof DowntimeTerms)[]) {
    const { predictedMs, actualMs } = last.downtime[term];
    lines.push([
      span(`  ${TERMS[term].padEnd(21)}${formatMs(predictedMs).padStart(10)}`, 'dim'),
      span(`${formatMs(actualMs).padStart(10)}  `),
      ...bar(actualMs / longest, barWidth, 'warn'),
    ]);
  }
  lines.push([
    span(
      `  ${'together'.padEnd(21)}${formatMs(last.predictedDowntimeMs).padStart(10)}${formatMs(last.downtimeMs).padStart(10)}`,
      'bold',
    ),
  ]);
  return lines;
}

/** The lines about the distribution of many migrations. */
function distributionLines({
  loadMs,
  downtimeMs,
  downtimeLimitMs,
  overLimit,
  unannounced,
  events,
}: Distribution): StyledLine[] {
  const told = ANNOUNCEMENTS.map((name) => `${name} ${formatCount(events[name])}`).join(', ');
  return [
    fact('spread', `downtime ${spreadText(downtimeMs)}`),
    fact('', `loading  ${spreadText(loadMs)}`),
    fact('limit', `${formatMs(downtimeLimitMs)}: ${overLimit} above it, ${unannounced} of them without an event`),
    fact('events', told),
  ];
}

function spreadText({ median, p95, max }: Spread): string {
  return `median ${formatMs(median)}, 95 % within ${formatMs(p95)}, at most ${formatMs(max)}`;
}

function fact(name: string, text: string): StyledLine {
  return [span(`  ${name.padEnd(12)}`, 'dim'), span(text)];
}
