/**
 * Steps that must not overlap, in the order in which they were asked for: a device that is on its way from one state to
 * another cannot be asked where it is.
 */
export class Turns {
  #last: Promise<unknown> = Promise.resolve();

  /** Runs `step` when all steps before it have settled, whatever became of them. */
  take<T>(step: () => Promise<T>): Promise<T> {
    const taken = this.#last.then(step);
    this.#last = taken.catch(() => undefined);
    return taken;
  }
}
