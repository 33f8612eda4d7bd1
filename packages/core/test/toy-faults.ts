import {
  DirtyBitmaps,
  type FaultService,
  type FaultStatus,
  type FrameStream,
  type MissingMemory,
  type PagesToServe,
} from '@godwit/core';
import { MAXIMUM_PAYLOAD } from '@godwit/core/pages';
import { BufferMemory } from '@godwit/core/testing';

/** What a toy's fault service does when it is called, and whether anybody there waits for a page. */
export interface ToyFaultsOptions {
  /** Awaited before the pages are given up, as threads that are not ready are. */
  readonly ready?: () => Promise<void>;
  /** The pages of block 0 that a device of the destination touches as soon as they can be asked for. */
  readonly touched?: readonly number[];
}

/** Serves missing pages of `BufferMemory`: nobody can wait in it, so that pages are only asked for where a test says so. */
export class ToyFaults implements FaultService {
  readonly #options: ToyFaultsOptions;
  /** What was done, in order. */
  readonly steps: string[] = [];

  constructor(options: ToyFaultsOptions = {}) {
    this.#options = options;
  }

  async ready(): Promise<void> {}

  blockers(): readonly string[] {
    return [];
  }

  async serve({ memory, contents }: PagesToServe): Promise<MissingMemory> {
    if (!(memory instanceof BufferMemory)) throw new Error('a toy serves toys');
    const missing = new DirtyBitmaps(memory);
    missing.or(contents);
    this.steps.push('serve');
    await this.#options.ready?.();
    const giveUp = (): void => {
      for (const [index, block] of memory.blocks.entries()) {
        const pages = missing.at(index);
        for (let page = pages.nextDirty(0); page !== -1; page = pages.nextDirty(page + 1)) {
          block.discard?.({ firstPage: page, pageCount: 1 });
        }
      }
    };
    giveUp();
    this.steps.push('served');
    return this.#serving(memory, missing);
  }

  #serving(memory: BufferMemory, missing: DirtyBitmaps): MissingMemory {
    let resolve: () => void = () => {};
    const whole = new Promise<void>((settled) => {
      resolve = settled;
    });
    const total = missing.count();
    const put = (block: number, page: number, bytes: Uint8Array): void => {
      if (!missing.at(block).has(page)) return;
      missing.at(block).clearRange(page, 1);
      memory.write(block, page * memory.pageSize, bytes);
    };
    const arrived = (): void => {
      if (missing.isEmpty()) resolve();
    };
    const putAll = (block: number, page: number, count: number, bytes: Uint8Array): void => {
      for (let i = 0; i < count; i++) {
        put(block, page + i, bytes.slice(i * memory.pageSize, (i + 1) * memory.pageSize));
      }
    };
    const bytes = new Uint8Array(MAXIMUM_PAYLOAD);
    return {
      whole,
      loadRest: () => arrived(),
      status: () => ({ ...NONE, pagesMissing: missing.count(), pagesTotal: total }),
      askOver: (urgent, onLost) => {
        this.#ask(urgent, missing, putAll, arrived).catch(onLost);
      },
      sink: () => ({
        bytes,
        put: (block, page, count, offset) => putAll(block, page, count, bytes.subarray(offset)),
        putZero: (block, page, count) => putAll(block, page, count, new Uint8Array(count * memory.pageSize)),
      }),
      sinkRecipe: { module: undefined, make: 'none', options: undefined },
      arrived,
      missing: () => {
        const copy = new DirtyBitmaps(memory);
        copy.or(missing);
        return copy;
      },
      present: async () => {},
      end: async () => void this.steps.push('end'),
      undo: async () => void this.steps.push('undo'),
    };
  }

  /** Asks for the pages that are touched, and puts those that come. */
  async #ask(
    urgent: FrameStream,
    missing: DirtyBitmaps,
    putAll: (block: number, page: number, count: number, bytes: Uint8Array) => void,
    arrived: () => void,
  ): Promise<void> {
    for (const page of this.#options.touched ?? []) {
      if (missing.at(0).has(page)) await urgent.write({ type: 'requestPages', block: 0, page, pages: 1 });
    }
    for (;;) {
      const received = await urgent.read();
      if (received === null) return;
      const { frame, payloadBytes } = received;
      if (frame.type !== 'pages') throw new Error(`"${frame.type}" came on the urgent channel`);
      const bytes = new Uint8Array(payloadBytes);
      await urgent.readPayload([bytes]);
      let at = 0;
      for (let i = 0; i < frame.runs.length; i += 2) {
        const [page, count] = [frame.runs[i] as number, frame.runs[i + 1] as number];
        const end = at + (bytes.byteLength / pagesIn(frame.runs)) * count;
        putAll(frame.block, page, count, bytes.subarray(at, end));
        at = end;
      }
      arrived();
    }
  }
}

function pagesIn(runs: readonly number[]): number {
  return runs.reduce((sum, value, index) => (index % 2 === 1 ? sum + value : sum), 0);
}

const NONE: FaultStatus = {
  pagesMissing: 0,
  pagesTotal: 0,
  faults: 0,
  faultsPerSecond: 0,
  zeroFaults: 0,
  duplicatePages: 0,
  latencyDistribution: [],
  worstLatencyUs: 0,
  blocked: [],
  waitingUs: 0,
  pagesLost: 0,
  remainingMs: undefined,
};
