/** The processes of a measurement, closed together at its end, the last first. */
export class Opened {
  readonly #open: { close(): Promise<void> }[] = [];
  #over: Error | undefined;

  /** Adds a process, once the promise has resolved, to those that are closed. */
  async keep<T extends { close(): Promise<void> }>(opening: Promise<T>): Promise<T> {
    const opened = await opening;
    if (this.#over !== undefined) {
      // All others are closed already.
      await opened.close();
      throw this.#over;
    }
    this.#open.push(opened);
    return opened;
  }

  async close(reason: Error): Promise<void> {
    this.#over = reason;
    for (const one of this.#open.splice(0).reverse()) await one.close();
  }
}

/**
 * Calls `work` with processes that are closed when it has settled.
 *
 * @throws Error after `milliseconds`, when the work has not ended
 */
export async function withOpened<T>(milliseconds: number, work: (opened: Opened) => Promise<T>): Promise<T> {
  const opened = new Opened();
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`it has not ended within ${milliseconds / 1000} s`)), milliseconds);
  });
  try {
    return await Promise.race([work(opened), late]);
  } finally {
    clearTimeout(timer);
    await opened.close(new Error('the measurement is over'));
  }
}
