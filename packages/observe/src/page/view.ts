import type { MigrationModel } from '../model/migration-model.js';
import { ChartsView } from './charts.js';
import { DestinationView } from './destination-view.js';
import { byId, element, setText } from './dom.js';
import { DowntimeTable } from './downtime-table.js';
import { FiguresView } from './figures.js';
import { HostsView } from './hosts.js';
import { LogView } from './log-view.js';
import { RoundTable } from './round-table.js';
import { StatesView } from './state-view.js';
import { stateTone, wholeState, wholeWords } from './words.js';

/** Where the page's data come from, and whether they still arrive. */
export type Feed = 'connecting' | 'live' | 'lost' | 'saved';

/** The whole page: shows a model, and each newer one. */
export class MigrationView {
  readonly #parts: readonly { show(model: MigrationModel): void }[] = [
    new HostsView(),
    new FiguresView(),
    new ChartsView(),
    new DowntimeTable(),
    new DestinationView(),
    new StatesView(),
    new RoundTable(),
    new LogView(),
  ];
  #model: MigrationModel | undefined;
  #feed: Feed = 'connecting';
  #waiting = false;

  show(model: MigrationModel): void {
    this.#model = model;
    // Several changes before the browser's next frame are drawn together.
    if (this.#waiting) return;
    this.#waiting = true;
    requestAnimationFrame(() => {
      this.#waiting = false;
      if (this.#model !== undefined) this.#draw(this.#model);
    });
  }

  set feed(feed: Feed) {
    this.#feed = feed;
    this.#drawFeed();
  }

  #draw(model: MigrationModel): void {
    const state = wholeState(model);
    setText(byId('title'), model.title);
    document.title = `${state} · ${model.title} · Godwit`;
    const badge = byId('state');
    const words = wholeWords(state, model.guest);
    setText(badge, words === '' ? state : `${state}: ${words}`);
    badge.className = `badge ${stateTone(state)}`;
    const error = model.source?.error ?? model.destination?.error ?? null;
    const alert = byId('alert');
    alert.hidden = error === null;
    setText(alert, error === null ? '' : `${error.code}: ${error.message}`);
    byId('destination-panel').hidden = model.destination === null;
    // The values of these panels are the engine's, and not in a recording.
    for (const id of ['downtime-panel', 'trackers-panel', 'terms-panel']) {
      byId(id).hidden = model.origin === 'recording';
    }
    for (const part of this.#parts) part.show(model);
    this.#drawFeed();
    this.#drawOrigin(model);
  }

  #drawFeed(): void {
    const over = this.#model?.over === true;
    const words: Readonly<Record<Feed, string>> = {
      connecting: 'connecting',
      live: over ? 'finished' : 'live',
      lost: over ? 'finished; the program has ended' : 'connection lost, trying again',
      saved: 'saved report',
    };
    const feed = byId('feed');
    setText(feed, words[this.#feed]);
    feed.className = `feed ${this.#feed}${over ? ' over' : ''}`;
  }

  #drawOrigin({ startedAt, origin }: MigrationModel): void {
    const from = byId('origin');
    const when = startedAt.replace('T', ' ').replace(/\.\d+Z$/, ' UTC');
    const recorded = `From a recording that began ${when}: predictions, dirty trackers and the guest’s downtime are known to the engine alone.`;
    const text = origin === 'recording' ? recorded : `Began ${when}. `;
    if (from.firstChild?.textContent === text) return;
    from.replaceChildren(text);
    if (this.#feed === 'saved') return;
    from.append(
      element('a', { href: '/report.html', download: '' }, 'Save a report'),
      ' · ',
      element('a', { href: '/model.json' }, 'Data'),
    );
  }
}
