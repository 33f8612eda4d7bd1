import type { MigrationModel } from '../model/migration-model.js';
import { countText, rateText, shareText } from '../model/quantity.js';
import { byId, element, setText } from './dom.js';
import { destinationWords, placeWords, sourceWords } from './words.js';

/** One of the two hosts. */
class HostCard {
  readonly box: HTMLElement;
  readonly #words = element('p', { class: 'words' });
  readonly #owner = element('p', { class: 'owner' });
  readonly #state = element('code', {});

  constructor(name: string) {
    const head = element('p', { class: 'host-head' }, element('strong', {}, name), ' ', this.#state);
    this.box = element('div', { class: 'host' }, head, this.#words, this.#owner);
  }

  show(state: string | undefined, words: string, owner: boolean): void {
    setText(this.#state, state ?? 'not watched');
    setText(this.#words, words);
    setText(this.#owner, owner ? 'Guest' : '');
    this.box.classList.toggle('owner-here', owner);
  }
}

/** The two hosts, the traffic between them, and who owns the guest. */
export class HostsView {
  readonly #source = new HostCard('Source');
  readonly #destination = new HostCard('Destination');
  readonly #rate = element('p', { class: 'wire-rate' });
  readonly #round = element('p', { class: 'wire-round' });
  readonly #progress = element('progress', {
    'aria-label': 'Pages of this round that were sent',
    max: '1',
    value: '0',
  });
  readonly #paused = element('p', { class: 'owner' });
  readonly #wire = element('div', { class: 'between' }, this.#paused, this.#rate, this.#progress, this.#round);
  readonly #place = element('p', { class: 'place', role: 'status' });

  constructor() {
    byId('hosts').append(
      this.#place,
      element('div', { class: 'hosts-row' }, this.#source.box, this.#wire, this.#destination.box),
    );
  }

  show(model: MigrationModel): void {
    const { source, destination, guest, over } = model;
    setText(this.#place, placeWords(guest));
    setText(this.#paused, guest === 'between' ? 'Guest, paused' : '');
    this.#source.show(
      source?.states.state,
      source === null ? 'Is in another process.' : sourceWords(source.ownership, source.states.state),
      guest === 'source',
    );
    this.#destination.show(
      destination?.states.state,
      destination === null ? 'Is in another process.' : destinationWords(destination.ownership),
      guest === 'destination',
    );
    const progress = source?.progress;
    const knows = progress !== undefined && progress.roundPages > 0;
    const share = knows ? Math.min(1, progress.roundPagesSent / progress.roundPages) : over ? 1 : 0;
    this.#progress.value = over && guest === 'destination' ? 1 : share;
    setText(
      this.#rate,
      over ? (guest === 'destination' ? 'Moved' : 'Ended') : rateText(progress?.wireBytesPerSecond ?? null),
    );
    setText(
      this.#round,
      over
        ? `${countText(model.rounds.count)} ${model.rounds.count === 1 ? 'round' : 'rounds'}`
        : knows
          ? `round ${progress.round}: ${shareText(share)} of ${countText(progress.roundPages)} pages`
          : 'no round yet',
    );
  }
}
