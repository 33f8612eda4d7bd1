import type { RoleStates, StateMachine, StateStep, StateVisit } from './migration-model.js';

/** Most steps of the path that are kept: the first `FIRST_STEPS` and the last ones. */
const MOST_STEPS = 200;
const FIRST_STEPS = 20;

/** The states that a role has been in, and for how long. Its size is bounded by the number of states. */
export class StateHistory {
  readonly #machine: StateMachine;
  readonly #visits = new Map<string, { times: number; totalMs: number; enteredMs: number }>();
  #path: StateStep[] = [];
  #state: string;

  constructor(machine: StateMachine, first: string) {
    this.#machine = machine;
    this.#state = first;
  }

  get state(): string {
    return this.#state;
  }

  /** The role has been in this state since `atMs`; does nothing if that was the last known state. */
  enter(state: string, atMs: number): void {
    if (state === this.#state && this.#path.length > 0) return;
    const before = this.#visits.get(this.#state);
    if (before !== undefined) before.totalMs += Math.max(0, atMs - before.enteredMs);
    this.#state = state;
    const visit = this.#visits.get(state) ?? { times: 0, totalMs: 0, enteredMs: 0 };
    visit.times++;
    visit.enteredMs = atMs;
    this.#visits.set(state, visit);
    this.#path.push({ state, atMs });
    if (this.#path.length > MOST_STEPS) this.#path.splice(FIRST_STEPS, 1);
  }

  model(): RoleStates {
    const visits: StateVisit[] = [...this.#visits].map(([state, visit]) => ({ state, ...visit }));
    return { state: this.#state, machine: this.#machine, visits, path: [...this.#path] };
  }
}
