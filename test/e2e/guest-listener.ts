import type { VirtualMachine } from '@godwit/example-node-vmm';
import {
  BOOT_PARAMS_BYTES,
  checkMemory,
  decodeBootParams,
  describeDefect,
  GuestLineParser,
  guestImage,
  type HeartbeatLine,
  HeartbeatMonitor,
  PARAMS_ADDRESS,
} from '@godwit/example-node-vmm/guest';

/** The position in the guest's console at a pause, from which another listener goes on. */
export interface HeardSoFar {
  readonly last: HeartbeatLine | undefined;
  readonly pending: string;
}

/** For `JSON.stringify`: the guest's picture is a `bigint`, which JSON does not have. */
export function pictureAsText(_key: string, value: unknown): unknown {
  return typeof value === 'bigint' ? String(value) : value;
}

/** For `JSON.parse` of what `pictureAsText` wrote. */
export function textAsPicture(key: string, value: unknown): unknown {
  return key === 'cells' ? BigInt(value as string) : value;
}

/** Listens to the guest's console, over one machine after the other, and collects everything that is wrong. */
export class GuestListener {
  readonly problems: string[] = [];
  beats = 0;
  readonly #parser: GuestLineParser;
  readonly #monitor = new HeartbeatMonitor();
  #waiting: { readonly wanted: number; readonly resolve: () => void }[] = [];

  /** With `heard`, the next heartbeat must follow the last one of that position. */
  constructor(heard?: HeardSoFar) {
    this.#parser = new GuestLineParser(heard?.pending);
    if (heard?.last !== undefined) this.#monitor.observe(heard.last);
  }

  get heard(): HeardSoFar {
    return { last: this.#monitor.last, pending: this.#parser.pending };
  }

  follow(machine: VirtualMachine): void {
    machine.console.subscribe((text) => {
      for (const line of this.#parser.push(text)) {
        if (line.type === 'other' || line.type === 'defect') this.problems.push(JSON.stringify(line));
        if (line.type !== 'heartbeat') continue;
        const wrong = this.#monitor.observe(line);
        if (wrong !== undefined) this.problems.push(wrong);
        this.beats++;
      }
      this.#wake();
    });
    machine.events.subscribe((event) => {
      if (event.type === 'crashed') this.problems.push(event.error.message);
      if (event.type === 'defect') this.problems.push(`defect ${event.kind}`);
      this.#wake();
    });
  }

  /** Resolves after so many further heartbeats, or when something is wrong. */
  moreBeats(count: number): Promise<void> {
    return new Promise((resolve) => {
      this.#waiting.push({ wanted: this.beats + count, resolve });
    });
  }

  #wake(): void {
    const due = this.#waiting.filter(({ wanted }) => this.beats >= wanted || this.problems.length > 0);
    this.#waiting = this.#waiting.filter((waiter) => !due.includes(waiter));
    for (const { resolve } of due) resolve();
  }
}

/** What is wrong with the memory of a paused guest, every page checked from outside; and how many pages that were. */
export function inspectGuest({ ram, description }: VirtualMachine): {
  readonly defects: string[];
  readonly pages: number;
} {
  const params = decodeBootParams(ram.view(PARAMS_ADDRESS, BOOT_PARAMS_BYTES));
  const { defects, pages } = checkMemory(ram, params, description.kind === 'kvm' ? { image: guestImage() } : {});
  return { defects: defects.map(describeDefect), pages };
}
