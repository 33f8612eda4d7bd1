import type { Frame, FrameStream } from '@godwit/core';
import { answerRequests, MemoryWindows, PageQueue } from '@godwit/core/pages';
import { BufferMemory, memoryLink } from '@godwit/core/testing';
import { afterEach, describe, expect, test } from '@jest/globals';
import fc from 'fast-check';

const PAGE = 256;
const BLOCK_PAGES = [300, 40];

interface Answer {
  readonly block: number;
  readonly runs: readonly number[];
  readonly payload: Uint8Array;
}

const streams: FrameStream[] = [];
afterEach(() => {
  for (const stream of streams.splice(0)) void stream.close();
});

/** A source that answers, and the destination's end of its urgent channel. */
async function answering(owed: readonly (readonly [block: number, page: number])[], open = true) {
  const memory = new BufferMemory(
    BLOCK_PAGES.map((pages, i) => ({ id: `ram${i}`, guestPhysicalAddress: i * 2 ** 32, byteLength: pages * PAGE })),
    PAGE,
  );
  for (const [i, { bytes }] of memory.blocks.entries()) {
    for (let page = 0; page < (BLOCK_PAGES[i] as number); page++)
      new DataView(bytes.buffer).setUint32(page * PAGE, i * 1000 + page + 1);
  }
  const shared = { ...memory, blocks: [...memory.blocks, { ...memory.blocks[1], id: 'shared', shared: true }] };
  const windows = new MemoryWindows(shared as unknown as BufferMemory);
  const queue = PageQueue.create(windows.memory);
  for (const [block, page] of owed) queue.owed.at(block).set(page);
  const link = memoryLink();
  const request = { migrationId: '0'.repeat(32), pageChannels: 0, connection: 1 };
  const { control } = await link.connector.connect(request, new AbortController().signal);
  const { control: asking } = await link.listener.accept(new AbortController().signal);
  streams.push(control, asking);
  const word = Int32Array.of(open ? 1 : 0);
  const done = answerRequests(control, { windows, queue, open: word });
  done.catch(() => {});
  return { memory, queue, asking, done, word };
}

const request = (block: number, page: number, pages = 1): Frame => ({ type: 'requestPages', block, page, pages });

async function answerOn(stream: FrameStream): Promise<Answer> {
  const { frame, payloadBytes } = (await stream.read()) as NonNullable<Awaited<ReturnType<FrameStream['read']>>>;
  if (frame.type !== 'pages' || frame.round !== 0) throw new Error(`no answer: ${JSON.stringify(frame)}`);
  const payload = new Uint8Array(payloadBytes);
  await stream.readPayload([payload]);
  return { block: frame.block, runs: frame.runs, payload };
}

function pagesOf(runs: readonly number[]): number[] {
  const pages: number[] = [];
  for (let i = 0; i < runs.length; i += 2) {
    for (let page = 0; page < (runs[i + 1] as number); page++) pages.push((runs[i] as number) + page);
  }
  return pages;
}

/** The pages that a payload says it has: each begins with its place. */
function placesIn({ payload }: Answer): number[] {
  const view = new DataView(payload.buffer);
  return Array.from({ length: payload.length / PAGE }, (_, i) => view.getUint32(i * PAGE));
}

describe('an answer', () => {
  test('has what was asked for, in the order of the requests, also what is not owed', async () => {
    const { asking, queue, done } = await answering([
      [0, 7],
      [0, 8],
      [1, 3],
    ]);
    for (const frame of [request(0, 6, 3), request(1, 3), request(0, 7)]) await asking.write(frame);
    const answers = [await answerOn(asking), await answerOn(asking), await answerOn(asking)];
    expect(answers.map(({ block, runs }) => [block, ...runs])).toEqual([
      [0, 6, 3],
      [1, 3, 1],
      [0, 7, 1],
    ]);
    expect(answers.map(placesIn)).toEqual([[7, 8, 9], [1004], [8]]);
    expect(queue.count()).toBe(0);
    expect([queue.taken.count(), queue.taken.at(0).has(6)]).toEqual([3, false]);
    void asking.close();
    await expect(done).resolves.toBeUndefined();
  });

  test('is followed by pages that are owed, never by others, and by no more than the cap', async () => {
    const places = fc.array(fc.nat({ max: 3 }), { minLength: 340, maxLength: 340 });
    const walks = fc.array(
      fc.record({ block: fc.nat({ max: 1 }), first: fc.nat({ max: 299 }), stride: fc.constantFrom(1, 2, -1, -3, 0) }),
      { minLength: 1, maxLength: 4 },
    );
    let ahead = 0;
    await fc.assert(
      fc.asyncProperty(places, walks, async (owedPlaces, guests) => {
        const owed = new Set<string>();
        for (const [i, of] of owedPlaces.entries()) if (of > 0) owed.add(i < 300 ? `0/${i}` : `1/${i - 300}`);
        const listed = [...owed].map((key) => key.split('/').map(Number) as [number, number]);
        const { asking, queue } = await answering(listed);
        const taken = new Set<string>();
        const take = (key: string) => {
          if (owed.delete(key)) taken.add(key);
        };
        // The last request is for a page that is not to be read ahead: what follows an answer comes before the next one.
        let asked: readonly [number, number] | undefined;
        const check = (answer: Answer): void => {
          const pages = pagesOf(answer.runs);
          expect(placesIn(answer)).toEqual(pages.map((page) => answer.block * 1000 + page + 1));
          expect(pages).toEqual([...new Set(pages)].sort((a, b) => a - b));
          if (asked !== undefined) {
            expect([answer.block, pages]).toEqual([asked[0], [asked[1]]]);
            take(`${asked[0]}/${asked[1]}`);
            asked = undefined;
            return;
          }
          ahead += pages.length;
          expect(pages.length).toBeLessThanOrEqual(32);
          for (const page of pages) {
            expect(owed.has(`${answer.block}/${page}`)).toBe(true);
            take(`${answer.block}/${page}`);
          }
        };
        for (const { block, first, stride } of guests) {
          for (let i = 0; i < 6; i++) {
            const blockPages = BLOCK_PAGES[block] as number;
            const page = (((first + i * stride) % blockPages) + blockPages) % blockPages;
            asked = [block, page];
            await asking.write(request(block, page));
            check(await answerOn(asking));
            // A ping's worth of patience: whatever follows is written in the same turn.
            await settle();
            while (queue.taken.count() > taken.size) check(await answerOn(asking));
          }
        }
        expect([queue.count(), queue.taken.count()]).toEqual([owed.size, taken.size]);
        for (const key of owed) {
          const [block, page] = key.split('/').map(Number) as [number, number];
          expect(queue.owed.at(block).has(page)).toBe(true);
        }
      }),
      { numRuns: 40 },
    );
    expect(ahead).toBeGreaterThan(100);
  });

  test('is written before the next request is read: whoever asks and reads nothing is not served for ever', async () => {
    const all = Array.from({ length: 300 }, (_, page) => [0, page] as const);
    const { asking, queue } = await answering(all);
    let written = 0;
    const flooding = (async () => {
      for (let i = 0; ; i++) {
        await asking.write(request(0, (i * 97) % 300));
        written++;
      }
    })();
    flooding.catch(() => {});
    for (let i = 0; i < 200; i++) await settle();
    expect(written).toBeLessThan(20);
    expect(queue.taken.count()).toBeLessThan(20);
  });
});

async function settle(): Promise<void> {
  await new Promise((resolve) => setImmediate(resolve));
}

describe('a request that cannot be meant is refused, and nothing is taken for it', () => {
  test.each<readonly [string, Frame, string]>([
    ['behind the end of the block', request(0, 300), 'GODWIT_OUT_OF_RANGE'],
    ['over the end of the block', request(1, 39, 2), 'GODWIT_OUT_OF_RANGE'],
    ['far away', request(0, 2 ** 52), 'GODWIT_OUT_OF_RANGE'],
    ['of a block that there is not', request(3, 0), 'GODWIT_OUT_OF_RANGE'],
    ['of a block that both sides share', request(2, 0), 'GODWIT_PROTOCOL'],
    ['of no page', request(0, 0, 0), 'GODWIT_PROTOCOL'],
    ['of more than may be asked for', request(0, 0, 65), 'GODWIT_LIMIT_EXCEEDED'],
    ['of all pages there can be', request(0, 0, Number.MAX_SAFE_INTEGER), 'GODWIT_LIMIT_EXCEEDED'],
    ['that is no request', { type: 'whole' }, 'GODWIT_PROTOCOL'],
    ['that is an answer', { type: 'pages', round: 0, block: 0, runs: [0, 1] }, 'GODWIT_PROTOCOL'],
  ])('%s', async (_name, frame, code) => {
    const { asking, queue, done } = await answering([
      [0, 0],
      [1, 39],
    ]);
    await asking.write(frame);
    await expect(done).rejects.toMatchObject({ code });
    expect([queue.count(), queue.taken.count()]).toEqual([2, 0]);
  });

  test('before the guest is handed over, and again once that was given up', async () => {
    const early = await answering([[0, 0]], false);
    await early.asking.write(request(0, 0));
    await expect(early.done).rejects.toMatchObject({ code: 'GODWIT_PROTOCOL', message: /not handed over/ });
    const late = await answering([[0, 0]]);
    await late.asking.write(request(0, 0));
    await answerOn(late.asking);
    Atomics.store(late.word, 0, 0);
    await late.asking.write(request(0, 1));
    await expect(late.done).rejects.toMatchObject({ code: 'GODWIT_PROTOCOL' });
  });
});
