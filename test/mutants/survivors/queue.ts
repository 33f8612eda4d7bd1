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
];
