import type { IncomingEvent, IncomingState } from '@godwit/core';
import { faultsText, latencyText } from '../demo/faults-text.js';
import { formatBytes, formatCount, formatMs } from '../demo/quantity.js';

/** The time between two lines about the missing pages, in milliseconds. */
const LINE_MS = 1000;

/** The messages of a VMM about an arriving guest. */
export class ArrivalOutput {
  readonly #tell: (text: string) => void;
  readonly #now: () => number;
  #lastLineAt = Number.NEGATIVE_INFINITY;

  constructor(tell: (text: string) => void, now: () => number = () => performance.now()) {
    this.#tell = tell;
    this.#now = now;
  }

  event(event: IncomingEvent): void {
    if (event.type === 'faults') {
      // With no page missing, the line of `completed` has these figures.
      if (event.faults.pagesMissing === 0 || this.#now() - this.#lastLineAt < LINE_MS) return;
      this.#lastLineAt = this.#now();
      this.#tell(faultsText(event.faults));
      return;
    }
    const text = arrivalText(event);
    if (text !== undefined) this.#tell(text);
  }
}

const STATES: Partial<Readonly<Record<IncomingState, string>>> = {
  'postcopy-active': 'its missing pages follow; until they are here it needs its source',
  'postcopy-paused':
    'pages are missing, and the link to them is lost: the guest stands where it needs one, until the source is back or "quit" gives it up',
};

function arrivalText(event: IncomingEvent): string | undefined {
  switch (event.type) {
    case 'hello':
      return event.dryRun ? `${event.peer} asks whether a guest may come` : `a guest comes from ${event.peer}`;
    case 'state':
      return STATES[event.state];
    case 'running':
      return 'the guest runs here';
    case 'completed': {
      const { rounds, pages, loadMs, wireBytes, runState, faults } = event.summary;
      const sent = `${formatCount(pages.raw + pages.delta + pages.compressed)} pages in ${rounds} rounds, ${formatBytes(wireBytes)}`;
      const came =
        faults && `${formatCount(faults.pagesTotal)} pages, ${formatCount(faults.faults)} of which it waited for`;
      const latency = faults === undefined ? '' : latencyText(faults);
      return (
        `the guest is here, ${runState}: ${came ?? sent}; its devices took ${formatMs(loadMs)} to load` +
        `${latency === '' ? '' : `; faults: ${latency}`}`
      );
    }
    case 'link-lost':
      return `the link to the source is lost: ${event.reason.message}`;
    case 'reconnected':
      return `the source has connected again`;
    case 'source-may-run':
      return 'everything is here, and the link is lost: the source may be running the guest. Waiting for its word';
    case 'warning':
      return `warning: ${event.code}: ${event.message}`;
    default:
      return undefined;
  }
}
