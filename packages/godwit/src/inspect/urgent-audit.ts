import type { Frame } from '@godwit/core';
import { ANSWER_ROUND, MOST_REQUESTED } from '@godwit/core/pages';
import type { RecordedFrame } from '@godwit/transport';
import type { Finding } from './finding.js';

/** Adds up what the urgent channel of one link has carried, and checks its limits. */
export class UrgentAudit {
  #requests = 0;
  #requestedPages = 0;
  #pages = 0;
  #bytes = 0;

  /** Returns what is wrong with a request. */
  request({ pages }: Extract<Frame, { type: 'requestPages' }>, byteLength: number): string | undefined {
    this.#requests++;
    this.#requestedPages += pages;
    this.#bytes += byteLength;
    return pages > MOST_REQUESTED
      ? `a "requestPages" frame asks for ${pages} pages; there may be ${MOST_REQUESTED}`
      : undefined;
  }

  /**
   * Returns what is wrong with an answer of `pages` pages. A capture of one direction has no requests to compare with.
   */
  answer(
    { round }: Extract<Frame, { type: 'pages' }>,
    pages: number,
    { byteLength, track }: RecordedFrame,
  ): string | undefined {
    this.#pages += pages;
    this.#bytes += byteLength;
    if (round !== ANSWER_ROUND)
      return `a "pages" frame of round ${round} on the urgent channel, whose pages belong to none`;
    if (pages > MOST_REQUESTED) return `an answer of ${pages} pages; there may be ${MOST_REQUESTED}`;
    return this.#requests === 0 && track !== undefined
      ? 'an answer on the urgent channel, though nothing was asked for'
      : undefined;
  }

  result(link: number): Extract<Finding, { event: 'urgent' }> {
    return {
      event: 'urgent',
      link,
      requests: this.#requests,
      requestedPages: this.#requestedPages,
      pages: this.#pages,
      bytes: this.#bytes,
    };
  }
}
