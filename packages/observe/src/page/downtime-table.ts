import type { DowntimeModel, Known, MigrationModel, TermModel } from '../model/migration-model.js';
import { msText, rangeText } from '../model/quantity.js';
import { byId, element, scrolled, tableHead } from './dom.js';
import { termWords } from './words.js';

const NO_PREDICTION = 'There is no prediction yet: the first round has not ended.';

/** The terms of the downtime, each with its prediction, its interval and its actual value. */
export class DowntimeTable {
  readonly #box = byId('terms');
  #shown = '';

  show({ source }: MigrationModel): void {
    const downtime = source?.downtime ?? null;
    const text = JSON.stringify(downtime);
    if (text === this.#shown) return;
    this.#shown = text;
    if (downtime === null) {
      this.#box.replaceChildren(element('p', { class: 'empty' }, NO_PREDICTION));
      return;
    }
    this.#box.replaceChildren(scrolled('Downtime, term by term', termTable(downtime)));
  }
}

function termTable({ terms, predictedMs, predictedRangeMs, actualMs }: DowntimeModel): HTMLTableElement {
  const whole = { term: 'in all', predictedMs, rangeMs: predictedRangeMs, actualMs };
  const most = Math.max(...terms.flatMap((term) => [term.predictedMs ?? 0, term.actualMs ?? 0]), 0.001);
  const body = element('tbody', {}, ...terms.map((term) => termRow(term, most)));
  const made = element(
    'table',
    { class: 'terms' },
    tableHead(['Term', 'Predicted', 'Nine in ten', 'Actual', keyOfBars()]),
    body,
    element('tfoot', {}, termRow(whole, undefined)),
  );
  if (actualMs === null) made.classList.add('pending');
  return made;
}

/** The legend of the two bars of a row. */
function keyOfBars(): HTMLElement {
  const predicted = element('span', { class: 'swatch bars color-link' });
  const actual = element('span', { class: 'swatch bars color-guest' });
  return element('span', { class: 'key' }, predicted, 'predicted ', actual, 'actual');
}

/** A row of the table; without `most` it is the row of the sum, which has no bars. */
function termRow({ term, predictedMs, rangeMs, actualMs }: TermModel, most: number | undefined): HTMLTableRowElement {
  const late = actualMs !== null && rangeMs !== null && rangeMs[1] !== null && actualMs > rangeMs[1];
  const bars = element('td', { class: 'bars', 'aria-hidden': 'true' });
  if (most !== undefined) bars.append(bar('predicted', predictedMs, most), bar('actual', actualMs, most));
  return element(
    'tr',
    late ? { class: 'late' } : {},
    element('th', { scope: 'row' }, termWords(term)),
    element('td', {}, msText(predictedMs)),
    element('td', {}, rangeText(rangeMs)),
    element('td', { class: 'actual' }, msText(actualMs)),
    bars,
  );
}

function bar(kind: string, value: Known, most: number): HTMLElement {
  const made = element('span', { class: `bar ${kind}` });
  made.style.width = `${(100 * (value ?? 0)) / most}%`;
  return made;
}
