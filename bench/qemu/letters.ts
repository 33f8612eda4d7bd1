interface Waiter {
  readonly letter: string;
  resolve(): void;
  reject(error: Error): void;
}

/** The letters that a guest has printed in one process. */
export class Letters {
  readonly #seen = new Set<string>();
  #waiting: Waiter[] = [];
  #failure: Error | undefined;

  /** Resolves when the letter was or is printed. Rejects when the process ends without it. */
  printed(letter: string): Promise<void> {
    if (this.#seen.has(letter)) return Promise.resolve();
    if (this.#failure !== undefined) return Promise.reject(this.#failure);
    return new Promise((resolve, reject) => this.#waiting.push({ letter, resolve, reject }));
  }

  hear(text: string): void {
    for (const letter of text) this.#seen.add(letter);
    const due = this.#waiting.filter(({ letter }) => this.#seen.has(letter));
    this.#waiting = this.#waiting.filter((waiter) => !due.includes(waiter));
    for (const { resolve } of due) resolve();
  }

  /** Rejects all waits, since the process has ended. */
  fail(error: Error): void {
    this.#failure = error;
    for (const { reject } of this.#waiting.splice(0)) reject(error);
  }
}
