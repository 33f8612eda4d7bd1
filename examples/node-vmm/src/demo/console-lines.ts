import type { HostName } from './demo-event.js';

export interface ConsoleLine {
  /** Where the last character of the line was printed. */
  readonly host: HostName;
  readonly text: string;
}

/**
 * Joins the console of a guest that moves. Text comes from two processes over two channels, and a line may begin at
 * one host and end at the other. While a migration runs, what the receiving host prints is held back until the sending
 * host has delivered its last character, so that the order is the guest's.
 */
export class ConsoleLines {
  readonly #onLine: (line: ConsoleLine) => void;
  #unfinished = '';
  #held: ConsoleLine[] = [];
  #holding: HostName | undefined;

  constructor(onLine: (line: ConsoleLine) => void) {
    this.#onLine = onLine;
  }

  /** From now on text of `host` waits. */
  hold(host: HostName): void {
    this.#holding = host;
  }

  /** The other host has said all it had to say. */
  release(): void {
    this.#holding = undefined;
    const held = this.#held;
    this.#held = [];
    for (const { host, text } of held) this.push(host, text);
  }

  push(host: HostName, text: string): void {
    if (host === this.#holding) {
      this.#held.push({ host, text });
      return;
    }
    const lines = (this.#unfinished + text).split('\n');
    this.#unfinished = lines.pop() ?? '';
    for (const line of lines) this.#onLine({ host, text: line.replace(/\r$/, '') });
  }
}
