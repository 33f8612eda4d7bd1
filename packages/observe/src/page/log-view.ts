import type { LogEntry, MigrationModel } from '../model/migration-model.js';
import { countText } from '../model/quantity.js';
import { byId, element, setText } from './dom.js';

/**
 * The log, newest first. New entries are added to those on the page, so that the reader's scroll position and selection
 * stay.
 */
export class LogView {
  readonly #list = element('ol', { class: 'log' });
  readonly #box = element(
    'div',
    { class: 'scroll tall', role: 'region', tabindex: '0', 'aria-label': 'Log' },
    this.#list,
  );
  readonly #note = element('p', { class: 'note' });
  /** The number of the newest entry that is shown, counted from the migration's first entry. */
  #newest = 0;

  constructor() {
    byId('log').append(this.#box, this.#note);
  }

  show({ log: { dropped, entries } }: MigrationModel): void {
    const newest = dropped + entries.length;
    // The log is shorter than before: another program serves the page since the connection was lost.
    if (newest < this.#newest) {
      this.#list.replaceChildren();
      this.#newest = 0;
    }
    for (const entry of entries.slice(Math.max(0, this.#newest - dropped))) this.#list.prepend(logItem(entry));
    while (this.#list.children.length > entries.length) this.#list.lastElementChild?.remove();
    this.#newest = newest;
    setText(this.#note, dropped > 0 ? `${countText(dropped)} older entries are not kept.` : '');
  }
}

function logItem({ atMs, side, level, text }: LogEntry): HTMLElement {
  return element(
    'li',
    { class: level },
    element('span', { class: 'when' }, `${(atMs / 1000).toFixed(3)} s`),
    element('span', { class: `side ${side}` }, side),
    element(
      'span',
      { class: 'text' },
      level === 'bad' || level === 'warning' ? element('b', {}, level === 'bad' ? 'Error: ' : 'Warning: ') : '',
      text,
    ),
  );
}
