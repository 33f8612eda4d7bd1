import type { DowntimeTerms } from '@godwit/core';
import type { Result } from '../demo-event.js';
import { ANNOUNCEMENTS, type Distribution, type Spread } from '../distribution.js';
import { latencyText } from '../faults-text.js';
import { formatBytes, formatCount, formatMs } from '../quantity.js';
import { bar } from './chart.js';
import { TERMS } from './news.js';
import { type Colour, type StyledLine, span, wrap } from './styled-line.js';
import type { ViewState } from './view-state.js';

const LABEL = 12;
/** With fewer columns the commands have no explanations. */
const NARROW = 60;

/** Commands to try next, and what they show. */
const NEXT = [
  ['npm run demo -- --dirty-rate 0', 'the guest writes as fast as it can'],
  ['npm run demo -- --postcopy', 'it runs there before its memory'],
  ['npm run demo -- --record a.godwit', 'then: npm run inspect -- a.godwit'],
] as const;

/**
 * The lines of the result: verified or not, the downtime as the hosts and the guest measured it, and its terms. No line is cut: lines
 * longer than `width` are wrapped. `compact`: without empty lines and bars, and with two terms beside each other where they fit.
 */
export function summaryLines(view: ViewState, width: number, compact = false): StyledLine[] {
  const { result } = view;
  const air: StyledLine[] = compact ? [] : [[]];
  const failure = view.failure === undefined ? [] : failureLines(view.failure, width);
  if (result === undefined) return failure;
  return [
    ...(view.failure === undefined ? verdict(view, result, width) : failure),
    ...air,
    ...figures(view, result, width),
    ...(result.migrations > 1 ? distributionLines(result.distribution, width) : termLines(view, width, compact)),
    ...(view.failure === undefined ? [...air, ...nextLines(width)] : []),
  ];
}

function failureLines(
  { code, message }: { readonly code: string; readonly message: string },
  width: number,
): StyledLine[] {
  return hanging([span('  ✗ ', 'bad'), span(`${code}: `, 'bold')], message, width, 'bad');
}

function verdict(view: ViewState, result: Result, width: number): StyledLine[] {
  if (!result.verified) {
    const why = view.guest?.settings.verify === false ? 'as asked with --no-verify' : `${result.defects} defects`;
    return hanging([span('  ✗ not verified  ', 'bad')], why, width);
  }
  const { pagesCompared, beats, defects } = result;
  // By post-copy there is nothing to compare before the guest runs: each page is checked once it has come.
  const pages = view.guest?.settings.postcopy
    ? `${formatCount(view.checkedPages ?? 0)} pages checked at the ${view.runsAt}`
    : `${formatCount(pagesCompared)} pages compared`;
  const facts = `${pages}, ${formatCount(beats)} rows unbroken, ${defects} defects`;
  return hanging([span('  ✓ verified  ', 'good')], facts, width);
}

function figures(view: ViewState, result: Result, width: number): StyledLine[] {
  const many = result.migrations > 1;
  const total = many
    ? `${formatCount(result.migrations)} in ${formatMs(result.totalMs)}, at most ${result.rounds} rounds each, ${formatBytes(result.wireBytes)} on the wire`
    : `${formatMs(result.totalMs)}, ${result.rounds} rounds, ${formatBytes(result.wireBytes)} on the wire`;
  const throttledMs = view.hops.at(-1)?.summary.throttledMs ?? 0;
  return [
    ...fact(many ? 'migrations' : 'total', total, width),
    ...fact('downtime', `${many ? 'at most: ' : ''}${downtimeText(result)}`, width),
    ...followedLines(view, width),
    ...(throttledMs > 0
      ? fact('throttle', `${formatMs(throttledMs)} of the guest's time were taken, all vCPUs on the average`, width)
      : []),
  ];
}

/** By post-copy: the pages that came after the guest, and how long the guest has waited for pages. */
function followedLines({ faults, hops }: ViewState, width: number): StyledLine[] {
  const report = hops.at(-1)?.summary.postcopy;
  if (report === undefined) return [];
  const links = report.lostLinks > 0 ? `, over ${report.lostLinks + 1} links` : '';
  const waited = faults === undefined ? '' : `; ${formatCount(faults.faults)} were waited for`;
  const latency = faults === undefined ? '' : latencyText(faults);
  return [
    ...fact('post-copy', `${formatCount(report.pages)} pages in ${formatMs(report.ms)}${links}${waited}`, width),
    ...(latency === '' ? [] : fact('faults', latency, width)),
  ];
}

/**
 * The downtime that the hosts measured, that of the guest, and the reason for the difference: the guest is also paused while both sides
 * are compared.
 */
function downtimeText({ downtimeMs, verifyMs, guestGapMs }: Result): string {
  const hosts = `hosts ${formatMs(downtimeMs)}${verifyMs > 0 ? ` + comparison ${formatMs(verifyMs)}` : ''}`;
  return guestGapMs > 0 ? `${hosts} ≈ guest's own clock ${formatMs(guestGapMs)}` : hosts;
}

/** The downtime by term, predicted and actual. */
function termLines(view: ViewState, width: number, compact: boolean): StyledLine[] {
  const last = view.hops.at(-1)?.summary;
  if (last === undefined) return [];
  const longest = Math.max(...Object.values(last.downtime).map(({ actualMs }) => actualMs), 0.001);
  const barWidth = Math.max(0, Math.min(30, width - 50));
  const terms: readonly Term[] = (Object.keys(TERMS) as (keyof DowntimeTerms)[]).map((term) => {
    const { predictedMs, actualMs } = last.downtime[term];
    return { name: TERMS[term], predictedMs, actualMs };
  });
  const together: Term = { name: 'together', predictedMs: last.predictedDowntimeMs, actualMs: last.downtimeMs };
  if (compact && width >= 2 * TERM_COLUMNS) {
    return [[span('  downtime by term, predicted and actual', 'dim')], ...inPairs([...terms, together])];
  }
  const head = `  ${'downtime by term'.padEnd(NAME)}${'predicted'.padStart(PREDICTED)}${'actual'.padStart(ACTUAL)}`;
  return [
    ...(compact ? [] : [[]]),
    [span(head, 'dim')],
    ...terms.map((term) => [
      ...cell(term, 'plain'),
      ...(barWidth === 0 ? [] : [span('  '), ...bar(term.actualMs / longest, barWidth, 'warn')]),
    ]),
    cell(together, 'bold'),
  ];
}

interface Term {
  readonly name: string;
  readonly predictedMs: number;
  readonly actualMs: number;
}

/** The widths of a term's name and of its two times, in columns. */
const [NAME, PREDICTED, ACTUAL] = [19, 10, 8];
const TERM_COLUMNS = 2 + NAME + PREDICTED + ACTUAL;

function cell({ name, predictedMs, actualMs }: Term, colour: Colour): StyledLine {
  return [
    span(`  ${name.padEnd(NAME)}${formatMs(predictedMs).padStart(PREDICTED)}`, colour === 'bold' ? colour : 'dim'),
    span(formatMs(actualMs).padStart(ACTUAL), colour),
  ];
}

function inPairs(terms: readonly Term[]): StyledLine[] {
  const rows = Math.ceil(terms.length / 2);
  const at = (index: number): StyledLine => {
    const term = terms[index];
    return term === undefined ? [] : cell(term, index === terms.length - 1 ? 'bold' : 'plain');
  };
  return Array.from({ length: rows }, (_, row) => [...at(row), ...at(row + rows)]);
}

/** The lines about the distribution of many migrations. */
function distributionLines(
  { loadMs, downtimeMs, downtimeLimitMs, overLimit, unannounced, events }: Distribution,
  width: number,
): StyledLine[] {
  const told = ANNOUNCEMENTS.map((name) => `${name} ${formatCount(events[name])}`).join(', ');
  const limit = `${formatMs(downtimeLimitMs)}: ${overLimit} above it, ${unannounced} of them without an event`;
  return [
    ...fact('spread', `downtime ${spreadText(downtimeMs)}`, width),
    ...fact('', `loading  ${spreadText(loadMs)}`, width),
    ...fact('limit', limit, width),
    ...fact('events', told, width),
  ];
}

function spreadText({ median, p95, max }: Spread): string {
  return `median ${formatMs(median)}, 95 % within ${formatMs(p95)}, at most ${formatMs(max)}`;
}

function nextLines(width: number): StyledLine[] {
  if (width < NARROW) return NEXT.flatMap(([command]) => hanging([span('  ')], command, width));
  const longest = Math.max(...NEXT.map(([command]) => command.length));
  const aligned = NEXT.every(([, what]) => 8 + longest + 2 + what.length <= width);
  return NEXT.flatMap(([command, what], at): StyledLine[] => {
    const label = span(`  ${(at === 0 ? 'next' : '').padEnd(6)}`, 'dim');
    const column = aligned ? longest : command.length;
    if (8 + column + 2 + what.length <= width) return [[label, span(command.padEnd(column + 2)), span(what, 'dim')]];
    return [...hanging([label], command, width), ...hanging([span('        ', 'dim')], what, width, 'dim')];
  });
}

function fact(name: string, text: string, width: number): StyledLine[] {
  return hanging([span(`  ${name.padEnd(LABEL - 2)}`, 'dim')], text, width);
}

/** `head` followed by text, whose further lines begin below its first one, or near the margin where there is little room. */
function hanging(head: StyledLine, text: string, width: number, colour: Colour = 'plain'): StyledLine[] {
  const indent = head.reduce((sum, { text: { length } }) => sum + length, 0);
  const near = width - indent < 24 && text.length > width - indent;
  if (near) return [head, ...wrap(text, width - 4, 0, colour).map((line) => [span('    '), ...line])];
  const [first = [], ...rest] = wrap(text, width - indent, 0, colour);
  return [[...head, ...first], ...rest.map((line) => [span(' '.repeat(indent)), ...line])];
}
