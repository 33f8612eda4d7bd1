import type { Survivors } from './survivors.js';

/** Of packages/core/src/queue. */
export const QUEUE: readonly Survivors[] = [
  {
    file: 'queue/page-queue.ts',
    why: 'a pass has to differ from the one before it and from 0, and from no other',
    mutants: [
      'PageQueue.#pass: 0 -> 1',
      'PageQueue.open: 1 -> 2',
      'PageQueue.open: this.#pass + 1 -> -',
      'PageQueue.open: 1 -> 2 #2',
      'PageQueue.open: 1 -> 2 #3',
    ],
  },
  {
    file: 'queue/page-queue.ts',
    why: 'it takes 2 ** 32 passes to make a difference',
    mutants: ['PageQueue.open: (this.#pass + 1) | 0 || 1 -> left side', 'PageQueue.open: 0 -> 1'],
  },
  {
    file: 'queue/page-queue.ts',
    why: '`undefined` is stored as 0, and is read as the index 0',
    mutants: [
      'PageQueue.open: Atomics.store(this.#control, Word.cursor, 0) without its last argument',
      'PageQueue.close: Atomics.store(this.#control, Word.open, 0) without its last argument',
      'PageQueue.cursor: Atomics.load(this.#control, Word.cursor) without its last argument',
    ],
  },
  {
    file: 'queue/page-queue.ts',
    why: 'a shared bitmap without a summary is walked word by word: it only takes longer',
    mutants: [
      'PageQueue.constructor: new DirtyBitmaps( memory, blocks.map((block) => block.owed), blocks.map((block) => block.owedSumm... without its last argument',
      'PageQueue.constructor: block.owedSummary -> undefined',
      'PageQueue.constructor: new DirtyBitmaps( memory, blocks.map((block) => block.taken), blocks.map((block) => block.takenSu... without its last argument',
      'PageQueue.constructor: block.takenSummary -> undefined',
    ],
  },
  {
    file: 'queue/page-queue.ts',
    why: 'marks that stay in the summary cost a look at words of zeros, and change no page',
    mutants: [
      'PageQueue.acknowledged: this.owed.isEmpty() -> false',
      'PageQueue.acknowledged: this.owed.clearAll(); removed',
    ],
  },
  {
    file: 'queue/page-queue.ts',
    why: 'a shift counts modulo 32',
    mutants: [
      'PageQueue.takeRange: 32 -> 64 #3',
      'PageQueue.takeRange: 32 -> 64 #5',
      'PageQueue.takeRange: 32 -> 64 #6',
    ],
  },
  {
    file: 'queue/page-queue.ts',
    why: 'the pages of a word are found one by one as well: the other way is only quicker',
    mutants: ['PageQueue.takeRange: moved === mask >>> 0 -> false', 'PageQueue.takeRange: moved !== 0 -> true'],
  },
  {
    file: 'queue/page-queue.ts',
    why: 'to add 0 changes nothing',
    mutants: ['PageQueue.takeAnswer: pages > 0 -> true', 'PageQueue.takeAnswer: pages > 0 -> >='],
  },
  {
    file: 'queue/page-taker.ts',
    why: '`begin`, which comes before the first page is taken, sets them',
    mutants: [
      'PageTaker.#present: 0 -> 1',
      'PageTaker.#present: 0 -> 1 #2',
      'PageTaker.#holes: 0 -> 1',
      'PageTaker.#holes: 0 -> 1 #2',
      'PageTaker.#pass: 0 -> 1',
      'PageTaker.#chunkPages: 0 -> 1',
    ],
  },
  {
    file: 'queue/page-taker.ts',
    why: 'the first search of a pass begins before any block but the first, and sets it to the first',
    mutants: ['PageTaker.#block: 0 -> 1'],
  },
  {
    file: 'queue/page-taker.ts',
    why: 'only as many words are used as a chunk has',
    mutants: ['PageTaker.constructor: queue.mostChunkPages / 32 -> *'],
  },
  {
    file: 'queue/page-taker.ts',
    why: 'the first chunks of equal chunks are equal',
    mutants: ['PageTaker.begin: chunkPages !== this.#chunkPages -> true'],
  },
  {
    file: 'queue/page-taker.ts',
    why: '`take` asks only whether there is a chunk',
    mutants: ['PageTaker.#claim: false -> undefined'],
  },
  {
    file: 'queue/page-taker.ts',
    why: '`take` finds nothing in a chunk whose pages have all been taken for requests, and claims the next one',
    mutants: ['PageTaker.#claim: this.#hasClaimed -> true'],
  },
  {
    file: 'queue/page-taker.ts',
    why: 'a search that begins at the first block finds nothing in front of the cursor: it only takes longer',
    mutants: [
      'PageTaker.#find: at < (firstChunk[this.#block] as number) -> true',
      'PageTaker.#find: at < (firstChunk[this.#block] as number) -> <=',
    ],
  },
];
