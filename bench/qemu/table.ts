import type { CaseResult, EntrantResult, Spread, Verdict } from './result.js';
import { FIGURES } from './sample.js';

/** The marks around the text that `--readme` writes. */
const BEGIN = '<!-- judge: written by `npm run bench -- qemu --readme` -->';
const END = '<!-- /judge -->';

/** The verdict as Markdown: a table for each case, with medians, minimums and maximums. */
export function markdown(verdict: Verdict): string {
  const { date, machine, versions, rounds, cases } = verdict;
  const head = `${date}, ${versions.join(', ')}; ${machine}. Medians of ${rounds} (least to most), each run in processes of its own.`;
  return [head, ...cases.map(tableOf)].join('\n\n');
}

function tableOf(one: CaseResult): string {
  const { name, title, columns, mayNeverEnd, entrants } = one;
  const shown = columns.filter((figure) => entrants.some(({ figures }) => figures[figure] !== undefined));
  const header = ['', ...shown.map((figure) => FIGURES[figure]), ...(mayNeverEnd ? ['ended by itself'] : [])];
  const rows = entrants.map((entrant) => [
    entrant.name,
    ...shown.map((figure) => cell(entrant.figures[figure])),
    ...(mayNeverEnd ? [ended(entrant)] : []),
  ]);
  const notes = entrants.flatMap(({ name: entrant, problems, samples }) => [
    ...problems.map((problem) => `${entrant}: failed: ${problem.split('\n')[0]}`),
    ...samples.flatMap(({ wrong }) => (wrong === undefined ? [] : [`${entrant}: memory wrong: ${wrong}`])),
  ]);
  const table = [header, header.map((_, i) => (i === 0 ? '---' : '---:')), ...rows]
    .map((row) => `| ${row.join(' | ')} |`)
    .join('\n');
  return [`**${name}**: ${title}`, table, ...notes].join('\n\n');
}

function cell(spread: Spread | undefined): string {
  if (spread === undefined) return '';
  const { median, least, most, never = 0 } = spread;
  const late = never === 0 ? '' : `never in ${never}`;
  if (Number.isNaN(median)) return late;
  const digits = most < 10 && ![median, least, most].every(Number.isInteger) ? 1 : 0;
  const text = (value: number): string =>
    value.toLocaleString('en-US', { minimumFractionDigits: digits, maximumFractionDigits: digits });
  const all = least === most ? text(median) : `${text(median)} (${text(least)} to ${text(most)})`;
  return late === '' ? all : `${all}, ${late}`;
}

function ended({ samples, problems }: EntrantResult): string {
  const by = samples.filter(({ endedByItself }) => endedByItself).length;
  return `${by} of ${samples.length + problems.length}`;
}

/**
 * Returns the page with the text between its two marks replaced by the verdict.
 *
 * @throws Error when the page has no such marks
 */
export function withVerdict(page: string, verdict: Verdict): string {
  const begin = page.indexOf(BEGIN);
  const end = page.indexOf(END);
  if (begin === -1 || end < begin) throw new Error(`the page has no place for it: ${BEGIN} and ${END}`);
  return `${page.slice(0, begin + BEGIN.length)}\n\n${markdown(verdict)}\n\n${page.slice(end)}`;
}
