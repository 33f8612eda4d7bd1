import type { ConvergencePolicy, MigrationSummary } from '@godwit/core';
import { FaultyDevice, type FrameTap, ManualTracker, ToyFaultService, ToyVm } from '@godwit/core/testing';
import { expect, test } from '@jest/globals';
import fc from 'fast-check';
import { random, start, type Toy } from './toy-migration.js';

interface Scenario {
  readonly seed: number;
  readonly blockPages: readonly number[];
  readonly pageSize: number;
  readonly pageChannels: number;
  /** Rounds of pre-copy before the switchover. */
  readonly rounds: number;
  readonly capacity: number;
  readonly latencyMs: number;
  /** Frames from one lost link to the next, whoever runs the guest. */
  readonly cuts: readonly number[];
  /** Frames behind `go` before a link is lost for the first time. */
  readonly afterGo: number | undefined;
  /** What was on its way when the link was lost arrives nevertheless. */
  readonly delivered: boolean;
}

const scenario: fc.Arbitrary<Scenario> = fc.record({
  seed: fc.integer(),
  blockPages: fc.array(fc.integer({ min: 1, max: 150 }), { minLength: 1, maxLength: 3 }),
  pageSize: fc.constantFrom(256, 1024),
  pageChannels: fc.constantFrom(0, 1, 3),
  rounds: fc.integer({ min: 1, max: 3 }),
  capacity: fc.integer({ min: 0, max: 4 }),
  latencyMs: fc.constantFrom(0, 1),
  cuts: fc.array(fc.integer({ min: 1, max: 30 }), { maxLength: 6 }),
  afterGo: fc.option(fc.integer({ min: 0, max: 12 }), { nil: undefined }),
  delivered: fc.boolean(),
});

/** The guest at the destination: what it reads is what the source had, and what it writes stays. */
class Arrived {
  readonly #source: ToyVm;
  readonly #vm: ToyVm;
  readonly #next: () => number;
  readonly wrong: string[] = [];
  readonly #written = new Map<string, number>();

  constructor(source: ToyVm, vm: ToyVm, seed: number) {
    this.#source = source;
    this.#vm = vm;
    this.#next = random(seed);
  }

  /** One vCPU: touches pages, here and there or one after the other, and writes every third. */
  async run(service: ToyFaultService, steps: number): Promise<void> {
    const { blocks, pageSize } = this.#vm.memory;
    let [block, page] = [0, 0];
    for (let i = 0; i < steps; i++) {
      if (this.#next() % 3 === 0) {
        block = this.#next() % blocks.length;
        page = this.#next();
      } else page++;
      page %= (blocks[block]?.byteLength ?? 0) / pageSize;
      await service.served.at(-1)?.touch(block, page);
      this.#check(block, page);
      if (this.#next() % 3 !== 0) continue;
      const value = this.#next() % 256;
      this.#bytes(this.#vm, block, page).fill(value);
      this.#written.set(`${block}/${page}`, value);
    }
  }

  /** Every page is there, whole and in its place. */
  checkAll(): void {
    for (const [block, { byteLength }] of this.#vm.memory.blocks.entries()) {
      for (let page = 0; page < byteLength / this.#vm.memory.pageSize; page++) this.#check(block, page);
    }
  }

  #check(block: number, page: number): void {
    const value = this.#written.get(`${block}/${page}`);
    const bytes = this.#bytes(this.#vm, block, page);
    const right =
      value === undefined ? this.#bytes(this.#source, block, page) : new Uint8Array(bytes.length).fill(value);
    if (Buffer.compare(bytes, right) !== 0)
      this.wrong.push(`page ${page} of block ${block}: ${bytes[0]} ${bytes.at(-1)}, not ${right[0]} ${right.at(-1)}`);
  }

  #bytes({ memory }: ToyVm, block: number, page: number): Uint8Array {
    const { bytes } = memory.blocks[block] as (typeof memory.blocks)[number];
    return bytes.subarray(page * memory.pageSize, (page + 1) * memory.pageSize);
  }
}

/** Something that writes at the source, as long as the guest runs there. */
function writer(vm: ToyVm, seed: number): () => void {
  const next = random(seed);
  return () => {
    if (!vm.running) return;
    const { blocks, pageSize } = vm.memory;
    const block = next() % blocks.length;
    const page = next() % ((blocks[block]?.byteLength ?? 0) / pageSize);
    const kind = next() % 4;
    if (kind === 0) vm.discard(block, { firstPage: page, pageCount: 1 });
    else vm.write(block, page * pageSize, new Uint8Array(pageSize).fill(kind === 1 ? 0 : next()));
  };
}

async function runScenario(given: Scenario): Promise<{ readonly incomplete: boolean; readonly lostLinks: number }> {
  const { seed, pageSize } = given;
  const blocks = given.blockPages.map((pages, index) => ({
    id: `ram${index}`,
    guestPhysicalAddress: index * 2 ** 32,
    byteLength: pages * pageSize,
  }));
  const source = new ToyVm(blocks, { pageSize });
  source.track(new ManualTracker(source.memory));
  const destination = new ToyVm(blocks, { pageSize, running: false });
  // What was there before must not shine through.
  for (const [index, { byteLength }] of destination.memory.blocks.entries())
    destination.memory.write(index, 0, new Uint8Array(byteLength).fill(0xee));
  const write = writer(source, seed);
  for (let i = 0; i < 300; i++) write();
  const faults = new ToyFaultService();
  const arrived = new Arrived(source, destination, ~seed);
  const state = Uint8Array.of(1, 2, 3);
  source.devices = [new FaultyDevice('uart', state)];
  const loaded = new FaultyDevice('uart');
  destination.devices = [loaded];
  const guests: Promise<void>[] = [];
  destination.onResume = () => {
    // Two vCPUs, which begin once the engine knows that the guest runs.
    for (const steps of [40, 60]) guests.push(Promise.resolve().then(() => arrived.run(faults, steps)));
  };
  const cuts = [...given.cuts];
  let welcomed = false;
  let wait = given.afterGo;
  const onTheWay: FrameTap = (frame, payload) => {
    write();
    if (frame.type === 'ping') welcomed = true;
    if (destination.resumes > 0 && wait !== undefined && wait-- === 0) {
      wait = undefined;
      toy.link.cut({ delivered: given.delivered });
      return undefined;
    }
    if (welcomed && cuts[0] !== undefined && --cuts[0] <= 0) {
      cuts.shift();
      toy.link.cut({ delivered: given.delivered });
      return undefined;
    }
    return { frame, payload };
  };
  const policy: ConvergencePolicy = ({ outcome }) =>
    outcome.round >= given.rounds ? { action: 'postcopy', reason: `${given.rounds} rounds are enough` } : undefined;
  const { capacity, latencyMs, pageChannels } = given;
  const toy: Toy = start({
    source,
    destination,
    link: { capacity, latencyMs, fromSource: onTheWay, fromDestination: onTheWay },
    migrate: { postcopy: true, pageChannels, policy, random: () => 0.5 },
    receive: { faults },
  });
  const { sent, received, code, receivedCode } = await toy.settled();
  const why = [sent, received].map((one) => (one.status === 'rejected' ? String(one.reason) : ''));
  expect({ code, receivedCode, why }).toEqual({ code: undefined, receivedCode: undefined, why: ['', ''] });
  // Links were lost, and nothing else has gone wrong.
  const losses = [...toy.events, ...toy.incomingEvents].flatMap((event) =>
    event.type === 'link-lost' ? [event.reason] : [],
  );
  expect(losses.filter(({ code: lost }) => lost !== 'GODWIT_LINK_LOST').map(String)).toEqual([]);
  await Promise.all(guests);
  arrived.checkAll();
  expect(arrived.wrong).toEqual([]);
  expect([source.running, destination.running, destination.resumes]).toEqual([false, true, 1]);
  expect(toy.link.openStreams).toBe(0);
  expect(Buffer.compare(loaded.state, state)).toBe(0);
  expect(toy.migration.ownership).toBe('released');
  const { postcopy, rounds } = (sent as PromiseFulfilledResult<MigrationSummary>).value;
  // The pause is for what is missing to be told, not for pages.
  expect(rounds.filter(({ phase }) => phase === 'stop-and-copy')).toEqual([]);
  return { incomplete: (postcopy?.pages ?? 0) > 0, lostLinks: postcopy?.lostLinks ?? 0 };
}

test('every page arrives once as it was at the pause, however often the link is lost before and after go', async () => {
  let incomplete = 0;
  let lostLinks = 0;
  await fc.assert(
    fc.asyncProperty(scenario, async (given) => {
      const run = await runScenario(given);
      if (run.incomplete) incomplete++;
      lostLinks += run.lostLinks;
    }),
    { numRuns: 80 },
  );
  // It is post-copy that was tried, and links were lost in it.
  expect(incomplete).toBeGreaterThan(40);
  expect(lostLinks).toBeGreaterThan(15);
}, 240_000);
