import type { DestinationModel, FaultsModel, MigrationModel } from '../model/migration-model.js';
import { bytesText, countText, msText, usText } from '../model/quantity.js';
import { byId, element, scrolled, tableHead, tableRow } from './dom.js';
import { kindWords } from './words.js';

const NOT_WATCHED = 'The destination is in another process: its own page shows it.';

/** The destination's side: what has arrived, and the page faults of a guest that runs before its memory is complete. */
export class DestinationView {
  readonly #box = byId('destination');
  #shown = '';

  show({ destination }: MigrationModel): void {
    const text = JSON.stringify([
      destination?.pages,
      destination?.wireBytes,
      destination?.faults,
      destination?.resumeMs,
      destination?.ownership,
    ]);
    if (text === this.#shown) return;
    this.#shown = text;
    if (destination === null) {
      this.#box.replaceChildren(element('p', { class: 'empty' }, NOT_WATCHED));
      return;
    }
    this.#box.replaceChildren(
      destinationFacts(destination),
      ...(destination.faults === null ? [] : [faultsPart(destination.faults)]),
    );
  }
}

function destinationFacts(destination: DestinationModel): HTMLElement {
  const pages = Object.entries(destination.pages);
  const all = pages.reduce((sum, [, count]) => sum + count, 0);
  const rows: [string, string][] = [
    ['Received', bytesText(destination.wireBytes)],
    ['Pages', countText(all)],
    ...pages
      .filter(([, count]) => count > 0)
      .map(([kind, count]): [string, string] => [`… ${kindWords(kind)}`, countText(count)]),
    ['Round', countText(destination.round)],
    ['Devices loaded in', msText(destination.loadMs)],
    ['Guest started in', msText(destination.resumeMs)],
    ...(destination.peer === null ? [] : [['From', destination.peer] as [string, string]]),
  ];
  return factList(rows);
}

function factList(rows: readonly (readonly [string, string])[]): HTMLElement {
  const made = element('dl', { class: 'facts' });
  for (const [name, value] of rows) made.append(element('div', {}, element('dt', {}, name), element('dd', {}, value)));
  return made;
}

function faultsPart(faults: FaultsModel): HTMLElement {
  const there = faults.pagesTotal - faults.pagesMissing;
  const rows: [string, string][] = [
    ['Pages missing', `${countText(faults.pagesMissing)} of ${countText(faults.pagesTotal)}`],
    ['Page faults', `${countText(faults.faults)}, ${countText(faults.faultsPerSecond)} a second`],
    ['Longest', usText(faults.worstLatencyUs)],
    ['A thread has waited', `${usText(faults.worstBlockedUs)} at most, of ${countText(faults.blockedThreads)}`],
    ['To go', msText(faults.remainingMs)],
    ...(faults.pagesLost > 0 ? [['Pages lost', countText(faults.pagesLost)] as [string, string]] : []),
  ];
  const share = faults.pagesTotal === 0 ? 1 : there / faults.pagesTotal;
  const progress = element('progress', { max: '1', value: String(share), 'aria-label': 'Pages that are there' });
  return element('div', {}, element('h3', {}, 'Memory that follows'), progress, factList(rows), histogram(faults));
}

/** The durations of faults: a row for each power of two that occurred. */
function histogram({ latencyDistribution, faults }: FaultsModel): HTMLElement {
  const most = Math.max(...latencyDistribution, 1);
  const rows = latencyDistribution.flatMap((count, power) => {
    if (count === 0) return [];
    const bar = element('span', { class: 'bar actual', 'aria-hidden': 'true' });
    bar.style.width = `${(100 * count) / most}%`;
    return [tableRow([`up to ${usText(2 ** (power + 1))}`, countText(count), bar])];
  });
  if (faults === 0 || rows.length === 0) return element('p', { class: 'note' }, 'No page fault yet.');
  const table = element(
    'table',
    { class: 'latency' },
    tableHead(['Fault took', 'Faults', 'Share']),
    element('tbody', {}, ...rows),
  );
  return scrolled('How long page faults took', table);
}
