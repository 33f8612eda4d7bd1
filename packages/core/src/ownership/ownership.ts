import { GodwitError } from '../errors.js';

/** A state of one side's ownership. */
export interface OwnershipState {
  /** True when no event leads out of this state. */
  readonly final: boolean;
  /** Whether this side may run the guest in this state; never true on both sides at once. */
  readonly mayRunGuest: boolean;
}

/** The states and events of one side, as data. The engine follows the table; the tests and the Spin model are compared with it. */
export interface OwnershipTable<State extends string, Event extends string> {
  readonly role: 'source' | 'destination';
  readonly initial: State;
  readonly states: Readonly<Record<State, OwnershipState>>;
  /** The next state for each state and event. An event that is not listed is illegal. */
  readonly transitions: Readonly<Record<State, Readonly<Partial<Record<Event, State>>>>>;
}

/** One side's ownership of the guest: its state, which only `apply` changes. */
export class Ownership<State extends string, Event extends string> {
  readonly #table: OwnershipTable<State, Event>;
  readonly #onChange: (state: State, previous: State, event: Event) => void;
  #state: State;

  /** `onChange` is called after each change, with the new state in force. */
  constructor(
    table: OwnershipTable<State, Event>,
    onChange: (state: State, previous: State, event: Event) => void = () => {},
  ) {
    this.#table = table;
    this.#onChange = onChange;
    this.#state = table.initial;
  }

  get state(): State {
    return this.#state;
  }

  get final(): boolean {
    return this.#table.states[this.#state].final;
  }

  get mayRunGuest(): boolean {
    return this.#table.states[this.#state].mayRunGuest;
  }

  allows(event: Event): boolean {
    return this.#next(event) !== undefined;
  }

  /** Applies `event` and returns the new state. Throws `GODWIT_INVALID_STATE`, and changes nothing, when the event is illegal. */
  apply(event: Event): State {
    const next = this.#next(event);
    const previous = this.#state;
    if (next === undefined) {
      const legal = Object.keys(this.#table.transitions[previous]).join(', ');
      throw new GodwitError(
        'GODWIT_INVALID_STATE',
        `"${event}" is illegal while the ${this.#table.role}'s ownership is "${previous}" (legal: ${legal || 'nothing, it is final'})`,
      );
    }
    this.#state = next;
    this.#onChange(next, previous, event);
    return next;
  }

  #next(event: Event): State | undefined {
    const row = this.#table.transitions[this.#state];
    return Object.hasOwn(row, event) ? row[event] : undefined;
  }
}
