/** A stream of events that another process has sent: what `@godwit/observe` takes in the place of a migration. */
export class PassedOn<E> {
  readonly #listeners = new Set<(event: E) => void>();

  subscribe(next: (event: E) => void): { unsubscribe(): void } {
    this.#listeners.add(next);
    return { unsubscribe: () => this.#listeners.delete(next) };
  }

  pass(event: E): void {
    for (const listener of this.#listeners) listener(event);
  }
}
