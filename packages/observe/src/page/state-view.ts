import type { MigrationModel, RoleStates } from '../model/migration-model.js';
import { msText } from '../model/quantity.js';
import { byId, element, setText } from './dom.js';
import { stateTone, stateWords } from './words.js';

/** The number of the path's last steps that are shown. */
const MOST_SHOWN_STEPS = 30;

/** The states of both sides: all states, which were visited and for how long, the current one, and those that may follow. */
export class StatesView {
  readonly #source = new MachineView('Source');
  readonly #destination = new MachineView('Destination');

  constructor() {
    byId('states').append(this.#source.box, this.#destination.box);
  }

  show({ source, destination, elapsedMs }: MigrationModel): void {
    this.#source.show(source?.states, elapsedMs);
    this.#destination.show(destination?.states, elapsedMs);
  }
}

class MachineView {
  readonly box: HTMLElement;
  readonly #list: HTMLElement;
  readonly #path = element('p', { class: 'path' });
  readonly #chips = new Map<string, { readonly chip: HTMLElement; readonly time: HTMLElement }>();

  constructor(name: string) {
    this.#list = element('ol', { class: 'states', 'aria-label': `States of the ${name.toLowerCase()}` });
    this.box = element('div', { class: 'machine' }, element('h3', {}, name), this.#list, this.#path);
  }

  show(states: RoleStates | undefined, elapsedMs: number): void {
    this.box.hidden = states === undefined;
    if (states === undefined) return;
    const { state: now, machine, visits, path } = states;
    const next = machine.next[now] ?? [];
    // States of a later version of the engine are not in the machine.
    const others = visits.map(({ state }) => state).filter((state) => !machine.states.includes(state));
    for (const state of [...machine.states, ...others]) {
      const { chip, time } = this.#chips.get(state) ?? this.#add(state);
      const visit = visits.find((one) => one.state === state);
      chip.className = `state ${state === now ? `current ${stateTone(state)}` : visit !== undefined ? 'visited' : next.includes(state) ? 'possible' : 'other'}`;
      if (state === now) chip.setAttribute('aria-current', 'step');
      else chip.removeAttribute('aria-current');
      if (visit === undefined) {
        setText(time, '');
        continue;
      }
      const final = (machine.next[state] ?? ['?']).length === 0;
      const ms = visit.totalMs + (state === now ? Math.max(0, elapsedMs - visit.enteredMs) : 0);
      setText(
        time,
        `${visit.times > 1 ? `${visit.times} times, ` : ''}${final ? `at ${msText(visit.enteredMs)}` : msText(ms)}`,
      );
    }
    const steps = path.slice(-MOST_SHOWN_STEPS).map(({ state }) => state);
    setText(this.#path, `${path.length > steps.length ? '… → ' : ''}${steps.join(' → ')}`);
  }

  #add(state: string) {
    const time = element('span', { class: 'time' });
    const chip = element('li', { 'data-state': state, title: stateWords(state) }, element('code', {}, state), time);
    const parts = { chip, time };
    this.#chips.set(state, parts);
    this.#list.append(chip);
    return parts;
  }
}
