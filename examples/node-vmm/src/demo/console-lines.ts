import type { HostName } from './demo-event.js';

export interface ConsoleLine {
  /** The host at which the last character of the line was printed. */
  readonly host: HostName;
  readonly text: string;
}

/**
 * Joins the console text of a guest that migrates. The text comes from two processes over two channels, and a line may begin at one
 * host and end at the other. During a migration the text of the receiving host is held until the sending host has delivered its last
 * character, so that the lines are in the guest's order.
 */
export class ConsoleLines {
  readonly #onLine: (line: ConsoleLine) => void;
  #unfinished = '';
  #held: ConsoleLine[] = [];
  #holding: HostName | undefined;

  constructor(onLine: (line: ConsoleLine) => void) {
    this.#onLine = onLine;
  }

  /** Holds the text of `host` from now on. */
  hold(host: HostName): void {
    this.#holding = host;
  }

  /** Delivers the held text, after the other host has delivered all of its own. */
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
