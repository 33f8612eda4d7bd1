import type { MigrationModel, RoundModel } from '../model/migration-model.js';
import { bytesText, countText, msText, rateText } from '../model/quantity.js';
import { byId, element, scrolled, setText, tableHead, tableRow } from './dom.js';

/** The newest rounds, in numbers. */
const MOST_ROWS = 50;

/** The rounds as a table: what the chart shows, for those who read numbers, and why each ended as it did. */
export class RoundTable {
  readonly #body = element('tbody');
  readonly #note = element('p', { class: 'note' });
  readonly #table: HTMLElement;
  readonly #empty = element('p', { class: 'empty' }, 'No round has ended yet.');
  #shown = '';

  constructor() {
    const columns = [
      'Round',
      'Pages',
      'Dirtied meanwhile',
      'On the wire',
      'Time',
      'Link',
      'Downtime, then',
      'Decision',
    ];
    this.#table = scrolled('Rounds', element('table', { class: 'rounds' }, tableHead(columns), this.#body));
    byId('round-table').append(this.#empty, this.#table, this.#note);
  }

  show({ rounds: { kept, count } }: MigrationModel): void {
    const newest = kept.slice(-MOST_ROWS);
    const shown = `${count} ${newest.at(-1)?.round} ${newest.length}`;
    if (shown === this.#shown) return;
    this.#shown = shown;
    this.#empty.hidden = newest.length > 0;
    this.#table.hidden = newest.length === 0;
    this.#body.replaceChildren(...newest.toReversed().map(roundRow));
    setText(this.#note, count > newest.length ? `The newest ${newest.length} of ${countText(count)} rounds.` : '');
  }
}

function decisionOf({ action, reason }: RoundModel): string | HTMLElement {
  if (action === null) return '–';
  return element('span', { class: 'decision' }, element('b', {}, action), reason === null ? '' : ` ${reason}`);
}

function roundRow(round: RoundModel): HTMLTableRowElement {
  return tableRow([
    round.phase === 'pre-copy' ? String(round.round) : `${round.round}, ${round.phase}`,
    countText(round.dirtyPages),
    countText(round.newlyDirtyPages),
    bytesText(round.wireBytes),
    msText(round.totalMs),
    rateText(round.linkBytesPerSecond),
    msText(round.predictedDowntimeMs),
    decisionOf(round),
  ]);
}
