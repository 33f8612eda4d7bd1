import { type MigratableVm, SoftwareTracker } from '@godwit/core';
import { createGuestMemory, type MappedGuestMemory } from '@godwit/linux';

const PAGE = 4096;

/** Kinds of page contents, and their number among 20 pages: a guest's memory is neither all noise nor all zeros. */
const MIXTURE = [
  { pages: 3, fill: noise },
  { pages: 5, fill: text },
  { pages: 5, fill: pointers },
  { pages: 4, fill: counters },
  { pages: 3, fill: () => {} },
] as const;

/** Pages that are rewritten in a second, four times the rate of a link of 1 Gbit/s, and the bytes of each. */
const PAGES_PER_SECOND = 120_000;
const WRITTEN_BYTES = 8;

/** A guest that rewrites a few bytes of every page of its working set, a quarter of its memory, over and over. */
export class RewritingGuest implements MigratableVm {
  readonly memory: MappedGuestMemory;
  readonly trackers: readonly [SoftwareTracker];
  readonly devices = [];
  readonly #bytes: Uint8Array;
  readonly #workingSet: number;
  #timer: NodeJS.Timeout | undefined;
  #page = 0;
  #writtenAt = 0;
  #generation = 0;

  constructor(byteLength: number) {
    this.memory = createGuestMemory({ blocks: [{ id: 'ram', guestPhysicalAddress: 0, byteLength }] });
    this.trackers = [new SoftwareTracker(this.memory)];
    this.#bytes = this.memory.blocks[0]?.view(0, byteLength) as Uint8Array;
    this.#workingSet = byteLength / PAGE / 4;
    const kinds = MIXTURE.flatMap(({ pages, fill }) => Array.from({ length: pages }, () => fill));
    const next = random(1);
    for (let at = 0; at < byteLength; at += PAGE) {
      const fill = kinds[next() % kinds.length] as (page: Uint8Array, next: () => number) => void;
      fill(this.#bytes.subarray(at, at + PAGE), next);
    }
  }

  async pause(): Promise<void> {
    clearInterval(this.#timer);
  }

  async resume(): Promise<void> {
    this.#writtenAt = performance.now();
    this.#timer = setInterval(() => this.#write(), 1);
  }

  #write(): void {
    const now = performance.now();
    let pages = Math.floor(((now - this.#writtenAt) / 1000) * PAGES_PER_SECOND);
    if (pages === 0) return;
    this.#writtenAt = now;
    pages = Math.min(pages, this.#workingSet);
    this.#generation++;
    for (let i = 0; i < pages; i++) {
      const page = this.#page;
      this.#page = (page + 1) % this.#workingSet;
      const at = page * PAGE + ((page * 104) % (PAGE - WRITTEN_BYTES));
      for (let byte = 0; byte < WRITTEN_BYTES; byte++) this.#bytes[at + byte] = this.#generation + byte * page;
      this.trackers[0].mark(0, at, WRITTEN_BYTES);
    }
  }
}

/** Mulberry32, T. Ettinger: the same numbers for the same seed. */
function random(seed: number): () => number {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return (t ^ (t >>> 14)) >>> 0;
  };
}

function noise(page: Uint8Array, next: () => number): void {
  for (let i = 0; i < PAGE; i++) page[i] = next();
}

const WORDS = 'the guest page cache holds files and logs of services and programs that ran here once or run now '.split(
  ' ',
);

function text(page: Uint8Array, next: () => number): void {
  let at = 0;
  while (at < PAGE) {
    const word = WORDS[next() % WORDS.length] as string;
    for (let i = 0; i < word.length && at < PAGE; i++) page[at++] = word.charCodeAt(i);
    if (at < PAGE) page[at++] = 32;
  }
}

/** 64-bit addresses of one region, some of them null. */
function pointers(page: Uint8Array, next: () => number): void {
  const view = new DataView(page.buffer, page.byteOffset, PAGE);
  const region = next();
  for (let at = 0; at < PAGE; at += 8) {
    if (next() % 3 === 0) continue;
    view.setUint32(at, (region + (next() % 65_536) * 16) >>> 0, true);
    view.setUint32(at + 4, 0xffff_8880, true);
  }
}

/** A small number in every 32 bytes. */
function counters(page: Uint8Array, next: () => number): void {
  for (let at = 0; at < PAGE; at += 32) page[at] = next();
}
