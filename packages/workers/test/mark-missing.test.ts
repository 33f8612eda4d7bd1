import { Errno, HOST_PAGE_SIZE } from '@godwit/linux/unstable';
import { markMissing, type PageMarker } from '@godwit/workers/unstable';
import { expect, test } from '@jest/globals';

const START = 16 * HOST_PAGE_SIZE;

/** Marks pages until one has an answer other than 0 in `answers`: the errno with which the call stops there, for one call each. */
class Marker implements PageMarker {
  errno = 0;
  readonly marked: number[] = [];
  readonly #answers: ReadonlyMap<number, number[]>;

  constructor(answers: Readonly<Record<number, readonly number[]>>) {
    this.#answers = new Map(Object.entries(answers).map(([page, errnos]) => [Number(page), [...errnos]]));
  }

  poison(address: number, byteLength: number): number {
    this.errno = 0;
    for (let done = 0; done < byteLength; done += HOST_PAGE_SIZE) {
      const page = (address + done - START) / HOST_PAGE_SIZE;
      this.errno = this.#answers.get(page)?.shift() ?? 0;
      if (this.errno !== 0) return done;
      this.marked.push(page);
    }
    return byteLength;
  }
}

/** Marks six pages; returns whether the call says that all are marked, and those that are. */
function mark(answers: Readonly<Record<number, readonly number[]>>) {
  const marker = new Marker(answers);
  return [markMissing(marker, START, 6 * HOST_PAGE_SIZE), marker.marked];
}

test('every page that is not there is marked', () => {
  expect(mark({})).toEqual([true, [0, 1, 2, 3, 4, 5]]);
  expect(mark({ 0: [Errno.EEXIST], 3: [Errno.EEXIST], 5: [Errno.EEXIST] })).toEqual([true, [1, 2, 4]]);
  expect(mark({ 2: [Errno.ENOENT] })).toEqual([true, [0, 1, 3, 4, 5]]);
});

test('a page is marked in the end that could not be while its mapping was being changed', () => {
  expect(mark({ 1: [Errno.EAGAIN], 2: [Errno.EAGAIN, Errno.EAGAIN] })).toEqual([true, [0, 1, 2, 3, 4, 5]]);
  const [all, marked] = mark({ 4: new Array(100_000).fill(Errno.EAGAIN) });
  expect([all, marked]).toEqual([false, [0, 1, 2, 3]]);
});

test('that a page could not be marked is said: it would read as zeros', () => {
  expect(mark({ 2: [Errno.ENOMEM] })[0]).toBe(false);
});
