import { roundCap } from '@godwit/core';
import { FaultyDevice, FaultyTracker, type FrameTap, ManualTracker, ToyVm } from '@godwit/core/testing';
import { expect, test } from '@jest/globals';
import fc from 'fast-check';
import { ResendWatch } from './resend-watch.js';
import { expectMoved, random, start, switchAfter, type Toy } from './toy-migration.js';

interface Scenario {
  readonly seed: number;
  readonly blockPages: readonly number[];
  readonly pageSize: number;
  readonly pageChannels: number;
  readonly rounds: number;
  readonly force: boolean;
  readonly capacity: number;
  readonly copies: 'early' | 'late';
  readonly tracker: 'software' | 'manual';
  /** Frames from one lost link to the next, whoever runs the guest; none when empty. */
  readonly cuts: readonly number[];
  /** What was on its way when the link was lost arrives nevertheless. */
  readonly delivered: boolean;
}

const scenario: fc.Arbitrary<Scenario> = fc.record({
  seed: fc.integer(),
  blockPages: fc.array(fc.integer({ min: 1, max: 200 }), { minLength: 1, maxLength: 4 }),
  pageSize: fc.constantFrom(256, 1024),
  pageChannels: fc.constantFrom(0, 1, 2, 5),
  rounds: fc.integer({ min: 1, max: 5 }),
  force: fc.boolean(),
  capacity: fc.integer({ min: 0, max: 4 }),
  copies: fc.constantFrom('early', 'late'),
  tracker: fc.constantFrom('software', 'manual'),
  cuts: fc.constant([]),
  delivered: fc.boolean(),
});

const cutScenario: fc.Arbitrary<Scenario> = fc
  .tuple(scenario, fc.array(fc.integer({ min: 1, max: 25 }), { minLength: 1, maxLength: 8 }))
  .map(([given, cuts]) => ({ ...given, cuts }));

/** Something that writes: a few random bytes, whole pages, zeroed pages, pages given back. */
class Guest {
  readonly #vm: ToyVm;
  readonly #next: () => number;

  constructor(vm: ToyVm, seed: number) {
    this.#vm = vm;
    this.#next = random(seed);
  }

  act(): void {
    if (this.#vm.running) this.#act((block, offset, data) => this.#vm.write(block, offset, data));
  }

  /** Writes that go with saving a device: the guest is paused. */
  actAsDevice(): void {
    for (let i = 0; i < 3; i++) this.#act((block, offset, data) => this.#vm.deviceWrite(block, offset, data));
  }

  /** Acts in each of the next turns of the microtask queue: between any two steps that the engine takes. */
  actBetweenSteps(): void {
    let left = this.#next() % 24;
    const step = () => {
      if (this.#next() % 3 === 0) this.act();
      if (left-- > 0) queueMicrotask(step);
    };
    step();
  }

  #act(write: (block: number, offset: number, data: Uint8Array) => void): void {
    const { blocks, pageSize } = this.#vm.memory;
    const blockIndex = this.#next() % blocks.length;
    const pages = (blocks[blockIndex]?.byteLength ?? 0) / pageSize;
    const page = this.#next() % pages;
    switch (this.#next() % 8) {
      case 0:
        write(blockIndex, page * pageSize, new Uint8Array(pageSize));
        break;
      case 1:
        write(blockIndex, page * pageSize, new Uint8Array(pageSize).fill(this.#next()));
        break;
      case 2:
        if (this.#vm.running) {
          const pageCount = 1 + (this.#next() % Math.min(40, pages - page));
          this.#vm.discard(blockIndex, { firstPage: page, pageCount });
        }
        break;
      default: {
        const length = 1 + (this.#next() % Math.min(2 * pageSize, (pages - page) * pageSize));
        const data = Uint8Array.from({ length: Math.min(length, 16) }, () => this.#next());
        write(blockIndex, page * pageSize + ((this.#next() % pageSize) % (pageSize - 16)), data);
      }
    }
  }
}

async function runScenario(given: Scenario): Promise<void> {
  const { seed, pageSize } = given;
  let address = 0;
  const blocks = given.blockPages.map((pages, index) => {
    const block = { id: `ram${index}`, guestPhysicalAddress: address, byteLength: pages * pageSize };
    address += block.byteLength + (index % 2) * 2 ** 32;
    return block;
  });
  const source = new ToyVm(blocks, { pageSize });
  const destination = new ToyVm(blocks, { pageSize, running: false });
  const guest = new Guest(source, seed);
  if (given.tracker === 'manual') source.track(new ManualTracker(source.memory));
  source.trackers = source.trackers.map(
    (tracker) => new FaultyTracker(tracker, source.memory, { onHarvest: () => guest.act() }),
  );
  const next = random(~seed);
  for (let i = next() % 400; i > 0; i--) guest.act();
  // What was there before must not shine through.
  for (const [index, block] of destination.memory.blocks.entries()) {
    destination.memory.write(index, 0, new Uint8Array(Math.min(block.byteLength, 1 + (next() % 9000))).fill(0xee));
  }
  const state = Uint8Array.from({ length: 1 + (next() % 5000) }, next);
  source.devices = [new FaultyDevice('uart', state, { onSave: () => guest.actAsDevice() })];
  const loaded = new FaultyDevice('uart');
  destination.devices = [loaded];
  const watch = new ResendWatch();
  const cuts = [...given.cuts];
  let welcomed = false;
  const onTheWay =
    (tap: FrameTap): FrameTap =>
    (frame, payload, channel) => {
      guest.actBetweenSteps();
      if (frame.type === 'ping') welcomed = true;
      if (welcomed && cuts[0] !== undefined && --cuts[0] <= 0) {
        cuts.shift();
        toy.link.cut({ delivered: given.delivered });
        return undefined;
      }
      return tap(frame, payload, channel);
    };
  const policy = given.force ? roundCap(given.rounds, 'switchover') : switchAfter(given.rounds);
  const toy: Toy = start({
    source,
    destination,
    link: {
      capacity: given.capacity,
      copies: given.copies,
      fromSource: onTheWay(watch.fromSource),
      fromDestination: onTheWay(watch.fromDestination),
    },
    migrate: { verify: true, pageChannels: given.pageChannels, policy },
  });
  const ends = await toy.settled();
  expectMoved(toy, ends);
  if (ends.sent.status !== 'fulfilled') return;
  const summary = ends.sent.value;
  expect(summary.verified).toBe(true);
  expect(watch.resent).toEqual([]);
  if (cuts.length < given.cuts.length) expect(watch.connections).toBeGreaterThan(1);
  expect(Buffer.compare(loaded.state, state)).toBe(0);
  for (const round of summary.rounds) {
    const { raw, zero, hole } = round.pages;
    const sent = raw + zero + hole;
    if (given.cuts.length === 0) expect(sent).toBe(round.dirtyPages);
    expect(round.rawBytes).toBe(sent * pageSize);
    expect(round.wireBytes).toBeGreaterThanOrEqual(raw * pageSize);
  }
  // Counted over the whole migration: one that was lost with its link, and a restart, has a number too.
  const numbers = summary.rounds.map(({ round }) => round);
  expect(numbers).toEqual([...new Set(numbers)].sort((a, b) => a - b));
  if (given.cuts.length === 0) expect(numbers).toEqual(numbers.map((_, index) => index + 1));
}

test('every byte arrives, whatever the guest writes at whatever moment', async () => {
  await fc.assert(fc.asyncProperty(scenario, runScenario), { numRuns: 70 });
}, 120_000);

test('nor does it matter how often the link is lost, and nothing acknowledged is sent twice', async () => {
  await fc.assert(fc.asyncProperty(cutScenario, runScenario), { numRuns: 60 });
}, 120_000);

test('huge pages: chunks stay whole words of the bitmap, and steps stay inside windows', async () => {
  const pageSize = 2 ** 21;
  const blocks = [{ id: 'ram', guestPhysicalAddress: 0, byteLength: 66 * pageSize }];
  const source = new ToyVm(blocks, { pageSize });
  source.track(new ManualTracker(source.memory));
  for (const page of [0, 31, 32, 63, 64, 65]) source.write(0, page * pageSize + page, Uint8Array.of(page + 1));
  const destination = new ToyVm(blocks, { pageSize, running: false });
  const toy = start({
    source,
    destination,
    link: {
      fromSource: (frame, payload) => {
        if (frame.type === 'roundEnd' && source.running) source.write(0, 65 * pageSize, Uint8Array.of(77));
        return { frame, payload };
      },
    },
    migrate: { verify: true, policy: roundCap(2, 'switchover') },
  });
  const ends = await toy.settled();
  expectMoved(toy, ends);
  expect(ends.sent).toMatchObject({ value: { verifiedPages: 6, rounds: [{ dirtyPages: 6 }, { dirtyPages: 1 }, {}] } });
});
