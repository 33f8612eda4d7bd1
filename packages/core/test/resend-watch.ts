import type { Frame, NamedPages } from '@godwit/core';
import type { FrameTap } from '@godwit/core/testing';

/**
 * Watches what goes over the links of one migration, and finds every page that is sent although the destination had
 * acknowledged it: with its round, or by name in a `received` frame.
 */
export class ResendWatch {
  /** Pages that were sent again without need, as `round:block:page`. */
  readonly resent: string[] = [];
  /** Pages sent in each round, over all connections. */
  readonly sent = new Map<number, number>();
  /** Pages that the destination has named after a lost link. */
  named = 0;
  connections = 0;
  #attempt = 1;
  /** The guest runs again, and the next round goes on under the number of the one that was given up: a page that it writes then is sent. */
  #wentBack = false;
  #acknowledgedRound = 0;
  readonly #named = new Set<string>();
  #heard: string[] = [];

  readonly fromSource: FrameTap = (frame, payload) => {
    this.#source(frame);
    return { frame, payload };
  };

  readonly fromDestination: FrameTap = (frame, payload) => {
    this.#destination(frame);
    return { frame, payload };
  };

  #source(frame: Frame): void {
    if (frame.type === 'hello') {
      this.connections++;
      this.#heard = [];
      this.#wentBack ||= frame.attempt > this.#attempt;
      this.#attempt = frame.attempt;
    }
    if (frame.type !== 'pages' && frame.type !== 'zeroPages') return;
    this.#wentBack = false;
    for (const page of pagesIn(frame)) {
      const name = `${frame.round}:${page}`;
      if (frame.round <= this.#acknowledgedRound || this.#named.has(name)) this.resent.push(name);
      this.sent.set(frame.round, (this.sent.get(frame.round) ?? 0) + 1);
    }
  }

  #destination(frame: Frame): void {
    // Everything was forgotten: this destination has nothing.
    if (frame.type === 'welcome') {
      this.#acknowledgedRound = 0;
      this.#named.clear();
    }
    if (frame.type === 'roundAck') this.#acknowledgedRound = frame.round;
    if (frame.type === 'received') this.#heard.push(...pagesIn(frame));
    if (frame.type !== 'resumed') return;
    this.#acknowledgedRound = Math.max(this.#acknowledgedRound, frame.round - 1);
    if (this.#wentBack) this.#named.clear();
    else for (const page of this.#heard) this.#named.add(`${frame.round}:${page}`);
    this.named += this.#heard.length;
  }
}

function pagesIn({ block, runs, firstPage = 0, words = [] }: NamedPages & { readonly block: number }): string[] {
  const pages: string[] = [];
  for (const [i, word] of words.entries()) {
    for (let bit = 0; bit < 32; bit++) if ((word >>> bit) & 1) pages.push(`${block}:${firstPage + i * 32 + bit}`);
  }
  for (let i = 0; i < runs.length; i += 2) {
    const first = runs[i] as number;
    for (let page = first; page < first + (runs[i + 1] as number); page++) pages.push(`${block}:${page}`);
  }
  return pages;
}
