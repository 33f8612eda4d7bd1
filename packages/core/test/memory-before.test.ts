import type { Frame, FrameStream, GuestMemory } from '@godwit/core';
import { PageBoard, PageWriter } from '@godwit/core/pages';
import { engineParts, type FrameTap, ToyVm, VirtualClock } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import { expectMoved, filledVm, PAGE, start, switchAfter, type Toy, type ToyOptions } from './toy-migration.js';

/** Writes of the engine to a destination's memory, as [first page, pages, kind]. */
type Touch = readonly [number, number, 'fill' | 'set'];

/** Bytes that report each write. A `subarray` of them does so too. */
function watchedBytes(byteLength: number, report: (touch: Touch) => void): Uint8Array {
  class WatchedBytes extends Uint8Array {
    override fill(value: number): this {
      report([this.byteOffset / PAGE, this.byteLength / PAGE, 'fill']);
      return super.fill(value);
    }
    override set(from: ArrayLike<number>, at = 0): void {
      report([(this.byteOffset + at) / PAGE, from.length / PAGE, 'set']);
      super.set(from, at);
    }
  }
  return new WatchedBytes(new ArrayBuffer(byteLength));
}

interface Before {
  readonly vm: ToyVm;
  readonly touches: Touch[];
  /** Per page: how often it was written. */
  counts(): number[];
}

/** A destination whose memory has contents: all of it without `holes`, which leaves out `populated` and `discard`. */
function destinationWithContents(pages: number, onTouch: () => void = () => {}): Before {
  const layout = [{ id: 'ram', guestPhysicalAddress: 0, byteLength: pages * PAGE }];
  const vm = new ToyVm(layout, { running: false });
  const touches: Touch[] = [];
  const bytes = watchedBytes(pages * PAGE, (touch) => {
    touches.push(touch);
    onTouch();
  });
  new Uint8Array(bytes.buffer).fill(0xee);
  const [block] = layout;
  const blocks = [
    { ...block, bytes, view: (offset: number, length: number) => bytes.subarray(offset, offset + length) },
  ];
  Object.assign(vm, { memory: Object.assign(Object.create(vm.memory), { blocks }) });
  const counts = () => {
    const found: number[] = new Array(pages).fill(0);
    for (const [first, count] of touches) {
      // A payload may come in parts, which end anywhere in a page.
      for (let page = Math.floor(first); page < first + count; page++) {
        const part = Math.min(first + count, page + 1) - Math.max(first, page);
        found[page] = (found[page] ?? 0) + part;
      }
    }
    return found;
  };
  return { vm, touches, counts };
}

/** The source says nothing of holes: all of its memory is sent. */
function dense(): ToyVm {
  const vm = filledVm();
  const blocks = vm.memory.blocks.map(({ id, guestPhysicalAddress, byteLength, bytes, view }) => ({
    ...{ id, guestPhysicalAddress, byteLength, bytes, view },
  }));
  return Object.assign(vm, { memory: Object.assign(Object.create(vm.memory), { blocks }) });
}

const once = (pages: number) => new Array(pages).fill(1);

function startInto(destination: ToyVm, options: ToyOptions = {}): Toy {
  return start({ destination, ...options, migrate: { policy: switchAfter(1), verify: true, ...options.migrate } });
}

describe.each([0, 2])('memory with contents and without populated(), over %i page channels', (pageChannels) => {
  test.each([
    ['sparse', filledVm],
    ['dense', dense],
  ])('is written once, and not before "welcome": from a %s source', async (_, source) => {
    const { vm, touches, counts } = destinationWithContents(64);
    let before = -1;
    const toy = startInto(vm, {
      source: source(),
      migrate: { pageChannels },
      link: {
        fromDestination: (frame, payload) => {
          if (frame.type === 'welcome') before = touches.length;
          return { frame, payload };
        },
      },
    });
    expectMoved(toy, await toy.settled());
    expect(before).toBe(0);
    expect(counts()).toEqual(once(64));
  });

  test('is right however the link is lost in round 1', async () => {
    const cutAt = (n: number, direction: 'fromSource' | 'fromDestination') => {
      let frames = 0;
      const tap: FrameTap = (frame, payload) => {
        if (++frames === n) {
          toy.link.cut({ delivered: n % 2 === 0 });
          return undefined;
        }
        return { frame, payload };
      };
      const { vm, counts } = destinationWithContents(64);
      const toy: Toy = startInto(vm, { migrate: { pageChannels }, link: { [direction]: tap } });
      const cancel = () => void (toy.incoming.state === 'none' && toy.incoming.cancel());
      toy.migration.result.then(cancel, cancel);
      return { toy, counts, frames: () => frames };
    };
    for (const direction of ['fromSource', 'fromDestination'] as const) {
      const whole = cutAt(0, direction);
      await whole.toy.settled();
      for (let n = 1; n <= whole.frames(); n++) {
        const { toy, counts } = cutAt(n, direction);
        const ends = await toy.settled();
        const at = { direction, n };
        expect({ at, codes: [ends.code, ends.receivedCode] }).toEqual({ at, codes: [undefined, undefined] });
        const lost = toy.source.memory.firstDifference(toy.destination.memory);
        expect({ at, lost }).toEqual({ at, lost: undefined });
        // What came whole is not cleared, and what was cleared is not cleared again.
        const holes = counts().filter((_, page) => page % 2 === 1);
        expect({ at, holes }).toEqual({ at, holes: once(32) });
      }
    }
  });
});

test('memory that tells its holes is cleared where it had contents, and nowhere else', async () => {
  const destination = new ToyVm([{ id: 'ram', guestPhysicalAddress: 0, byteLength: 64 * PAGE }], { running: false });
  const [block] = destination.memory.blocks;
  for (const page of [1, 2, 3, 40, 63]) destination.memory.write(0, page * PAGE, new Uint8Array(PAGE).fill(0xee));
  const toy = startInto(destination);
  expectMoved(toy, await toy.settled());
  const cleared = [...(block?.populated?.() ?? [])].map(({ firstPage }) => firstPage);
  // Pages 1, 3 and 63 were written with zeros; the other odd pages were holes, and still are.
  expect(cleared.filter((page) => page % 2 === 1)).toEqual([]);
  expect([...(block?.present.has(1) ? [1] : []), ...(block?.present.has(5) ? [5] : [])]).toEqual([1]);
});

test('pages that were pinned since "welcome" are cleared, and not discarded', async () => {
  const destination = new ToyVm([{ id: 'ram', guestPhysicalAddress: 0, byteLength: 64 * PAGE }], { running: false });
  destination.memory.write(0, 0, new Uint8Array(64 * PAGE).fill(0xee));
  const [block] = destination.memory.blocks;
  const source = new ToyVm([{ id: 'ram', guestPhysicalAddress: 0, byteLength: 64 * PAGE }]);
  source.write(0, 0, Uint8Array.of(1));
  const toy = startInto(destination, {
    source,
    link: {
      fromDestination: (frame, payload) => {
        if (frame.type === 'welcome') block?.pin?.({ firstPage: 40, pageCount: 1 });
        return { frame, payload };
      },
    },
  });
  expectMoved(toy, await toy.settled());
  // They still have their memory.
  expect([block?.present.has(40), block?.present.has(20)]).toEqual([true, true]);
});

test('the acknowledgement of round 1 waits until all is clear, and the link is kept alive meanwhile', async () => {
  const { vm, counts } = destinationWithContents(32 * 1024);
  let clear: boolean | undefined;
  const toy = startInto(vm, {
    source: new ToyVm([{ id: 'ram', guestPhysicalAddress: 0, byteLength: 128 * 2 ** 20 }]),
    link: {
      fromDestination: (frame, payload) => {
        if (frame.type === 'roundAck') clear ??= counts().every((count) => count === 1);
        return { frame, payload };
      },
    },
  });
  expectMoved(toy, await toy.settled());
  expect(clear).toBe(true);
});

test('nothing is cleared once the VM was abandoned', async () => {
  let abandoned = false;
  let late = 0;
  let cancelled = false;
  const { vm, touches } = destinationWithContents(32 * 1024, () => {
    if (abandoned) late++;
    if (cancelled) return;
    cancelled = true;
    toy.incoming.cancel('the operator has changed their mind');
  });
  vm.abandon = async () => {
    abandoned = true;
  };
  const toy = startInto(vm, {
    source: new ToyVm([{ id: 'ram', guestPhysicalAddress: 0, byteLength: 128 * 2 ** 20 }]),
  });
  const ends = await toy.settled();
  expect([ends.receivedCode, abandoned, toy.source.running]).toEqual(['GODWIT_CANCELLED', true, true]);
  await toy.clock.sleep(10_000);
  expect(late).toBe(0);
  expect(touches.length).toBeLessThan(4);
});

test('a delta of a page that never came is against zeros, whatever memory had there', async () => {
  const bytes = new Uint8Array(4 * PAGE).fill(0xee);
  const memory: GuestMemory = {
    pageSize: PAGE,
    blocks: [
      {
        id: 'ram',
        guestPhysicalAddress: 0,
        byteLength: 4 * PAGE,
        view: (at, length) => bytes.subarray(at, at + length),
      },
    ],
  };
  const { MemoryWindows, DirtyBitmaps } = { ...engineParts, DirtyBitmaps: (await import('@godwit/core')).DirtyBitmaps };
  const contents = new DirtyBitmaps(memory);
  contents.setAll();
  const board = PageBoard.create(memory, 1, false, contents);
  const { delta } = await import('@godwit/core');
  const writer = new PageWriter(0, new MemoryWindows(memory), board, new VirtualClock(), [delta()]);
  // One step: leave 8 bytes, replace 1 by 0x5a.
  const payload = Uint8Array.of(3, 8, 1, 0x5a);
  const stream = { readPayload: async ([into]: readonly Uint8Array[]) => into?.set(payload) } as unknown as FrameStream;
  const frame = { type: 'deltaPages', round: 1, block: 0, runs: [1, 1] } as Extract<Frame, { type: 'deltaPages' }>;
  await writer.deltaPages(stream, frame, payload.length);
  const expected = new Uint8Array(PAGE);
  expected[8] = 0x5a;
  expect(bytes.subarray(PAGE, 2 * PAGE)).toEqual(expected);
  expect([bytes[0], bytes[2 * PAGE]]).toEqual([0xee, 0xee]);
});
