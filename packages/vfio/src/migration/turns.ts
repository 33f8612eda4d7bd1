/**
 * Steps that must not overlap, in the order of the calls: a device cannot be asked for its state while it changes it.
 */
export class Turns {
  #last: Promise<unknown> = Promise.resolve();

  /** Runs `step` when all steps before it have settled, successfully or not. */
  take<T>(step: () => Promise<T>): Promise<T> {
    const taken = this.#last.then(step);
    this.#last = taken.catch(() => undefined);
    return taken;
  }
}
