import type { MigrationModel, RoundModel } from '../model/migration-model.js';
import { bytesText, countText, msText, rateText } from '../model/quantity.js';
import { byId, type Child, element, scrolled, setText, tableHead, tableRow } from './dom.js';

/** The newest rounds, in numbers. */
const MOST_ROWS = 50;

interface Column {
  readonly name: string;
  readonly cell: (round: RoundModel) => Child;
  /** False if this round has no such value; a column without any value is left out. */
  readonly known?: (round: RoundModel) => boolean;
}

const COLUMNS: readonly Column[] = [
  { name: 'Round', cell: ({ round, phase }) => (phase === 'pre-copy' ? String(round) : `${round}, ${phase}`) },
  { name: 'Pages', cell: ({ dirtyPages }) => countText(dirtyPages) },
  {
    name: 'Dirtied meanwhile',
    cell: ({ newlyDirtyPages }) => countText(newlyDirtyPages),
    known: ({ newlyDirtyPages }) => newlyDirtyPages !== null,
  },
  { name: 'On the wire', cell: ({ wireBytes }) => bytesText(wireBytes) },
  { name: 'Time', cell: ({ totalMs }) => msText(totalMs) },
  { name: 'Link', cell: ({ linkBytesPerSecond }) => rateText(linkBytesPerSecond) },
  {
    name: 'Downtime, then',
    cell: ({ predictedDowntimeMs }) => msText(predictedDowntimeMs),
    known: ({ predictedDowntimeMs }) => predictedDowntimeMs !== null,
  },
  { name: 'Decision', cell: decisionOf, known: ({ action }) => action !== null },
];

/** The rounds as a table: the values that the chart shows, and why each round ended as it did. */
export class RoundTable {
  readonly #box = element('div');
  readonly #note = element('p', { class: 'note' });
  readonly #empty = element('p', { class: 'empty' }, 'No round has ended yet.');
  #shown = '';

  constructor() {
    byId('round-table').append(this.#empty, this.#box, this.#note);
  }

  show({ rounds: { kept, count } }: MigrationModel): void {
    const newest = kept.slice(-MOST_ROWS);
    const shown = `${count} ${newest.at(-1)?.round} ${newest.length}`;
    if (shown === this.#shown) return;
    this.#shown = shown;
    this.#empty.hidden = newest.length > 0;
    setText(this.#note, count > newest.length ? `The newest ${newest.length} of ${countText(count)} rounds.` : '');
    if (newest.length > 0) this.#box.replaceChildren(roundTable(newest));
    else this.#box.replaceChildren();
  }
}

function roundTable(rounds: readonly RoundModel[]): HTMLElement {
  const columns = COLUMNS.filter(({ known }) => known === undefined || rounds.some(known));
  const rows = rounds.toReversed().map((round) => tableRow(columns.map(({ cell }) => cell(round))));
  const decided = columns.some(({ name }) => name === 'Decision');
  const table = element(
    'table',
    { class: decided ? 'rounds decided' : 'rounds' },
    tableHead(columns.map(({ name }) => name)),
    element('tbody', {}, ...rows),
  );
  return scrolled('Rounds', table);
}

function decisionOf({ action, reason }: RoundModel): Child {
  if (action === null) return '–';
  return element('span', { class: 'decision' }, element('b', {}, action), reason === null ? '' : ` ${reason}`);
}
