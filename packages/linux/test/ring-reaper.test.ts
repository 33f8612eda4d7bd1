import { DirtyBitmap } from '@godwit/core';
import { RingReaper, VcpuRing } from '@godwit/linux/unstable';
import { expect, test } from '@jest/globals';
import fc from 'fast-check';
import { errorOf } from './error-of.js';
import { SimulatedRings } from './simulated-rings.js';

/** Numbers of pages: one is no multiple of 64, nor of 32. */
const SLOTS = [70, 37] as const;
const VCPUS = 3;
const ENTRIES = 16;
const RESERVE = 4;

interface Vm {
  readonly kvm: SimulatedRings;
  readonly reaper: RingReaper;
  readonly collected: Int32Array;
  readonly rings: readonly VcpuRing[];
}

function vm(): Vm {
  const kvm = new SimulatedRings(SLOTS, VCPUS, ENTRIES, RESERVE);
  const places = new Int32Array(VCPUS);
  const collected = new Int32Array(VCPUS);
  const rings = kvm.rings.map((words, i) => new VcpuRing(words, places, i));
  const slots = SLOTS.map((pageCount, slot) => ({ slot, pageCount }));
  return { kvm, rings, collected, reaper: new RingReaper({ rings, slots, collected, reset: () => kvm.reset() }) };
}

function clean(): DirtyBitmap[] {
  return SLOTS.map((pages) => new DirtyBitmap(pages));
}

function pagesIn(bitmaps: readonly DirtyBitmap[]): string[] {
  const pages: string[] = [];
  for (const [slot, bitmap] of bitmaps.entries()) {
    for (let page = bitmap.nextDirty(0); page !== -1; page = bitmap.nextDirty(page + 1)) pages.push(`${slot}:${page}`);
  }
  return pages;
}

const place = fc
  .nat(SLOTS.length - 1)
  .chain((slot) => fc.record({ slot: fc.constant(slot), page: fc.nat((SLOTS[slot] as number) - 1) }));
const write = fc.record({ do: fc.constant('write' as const), vcpu: fc.nat(VCPUS - 1), at: place });
const reap = fc.record({ do: fc.constant('reap' as const), interrupted: fc.array(fc.nat(3), { maxLength: 4 }) });

test('each reap reports exactly the pages that were written since the last one, however often the rings wrap around', () => {
  fc.assert(
    fc.property(
      fc.array(fc.oneof({ weight: 8, arbitrary: write }, { weight: 1, arbitrary: reap }), { maxLength: 300 }),
      (steps) => {
        const { kvm, reaper, collected } = vm();
        const written = new Set<string>();
        let total = 0;
        const check = (): void => {
          const bitmaps = clean();
          reaper.reap(bitmaps);
          expect(pagesIn(bitmaps).sort()).toEqual([...written].sort());
          total += written.size;
          written.clear();
        };
        for (const step of steps) {
          if (step.do === 'reap') {
            kvm.interrupted = [...step.interrupted];
            check();
          } else {
            if (kvm.isFull(step.vcpu)) check();
            kvm.write(step.vcpu, step.at.slot, step.at.page, 1);
            written.add(`${step.at.slot}:${step.at.page}`);
          }
        }
        check();
        // A page of two vCPUs' rings would have been logged once: it was not armed at the second write.
        expect(collected.reduce((sum, count) => sum + count, 0)).toBe(total);
        check();
      },
    ),
    { numRuns: 300 },
  );
});

/** The engine in small: what a reap reports is copied, and the guest writes at any moment, in the middle of a reap too. */
test('a copy of what was reported, made after each reap, ends up equal to memory', () => {
  const steps = fc.array(
    fc.oneof(
      { weight: 6, arbitrary: write },
      {
        weight: 1,
        arbitrary: fc.record({ do: fc.constant('reap' as const), during: fc.array(write, { maxLength: 3 }) }),
      },
    ),
    { maxLength: 200 },
  );
  fc.assert(
    fc.property(steps, (all) => {
      const { kvm, reaper } = vm();
      const copies = SLOTS.map((pages) => new Float64Array(pages));
      let value = 0;
      const guest = ({ vcpu, at }: { vcpu: number; at: { slot: number; page: number } }): void => {
        if (!kvm.isFull(vcpu)) kvm.write(vcpu, at.slot, at.page, ++value);
      };
      const copy = (during: readonly { vcpu: number; at: { slot: number; page: number } }[]): void => {
        const bitmaps = clean();
        kvm.beforeReset = () => {
          kvm.beforeReset = () => undefined;
          during.forEach(guest);
        };
        reaper.reap(bitmaps);
        kvm.beforeReset = () => undefined;
        for (const [slot, bitmap] of bitmaps.entries()) {
          for (let page = bitmap.nextDirty(0); page !== -1; page = bitmap.nextDirty(page + 1)) {
            (copies[slot] as Float64Array)[page] = (kvm.memory[slot] as Float64Array)[page] as number;
          }
        }
      };
      for (const step of all) {
        if (step.do === 'write') guest(step);
        else copy(step.during);
      }
      copy([]);
      expect(copies).toEqual(kvm.memory);
    }),
    { numRuns: 300 },
  );
});

test('how many entries wait is known without taking them', () => {
  fc.assert(
    fc.property(fc.nat(2 * ENTRIES), fc.nat(ENTRIES - RESERVE), (before, now) => {
      const { kvm, rings, reaper } = vm();
      const [ring] = rings as [VcpuRing];
      for (let i = 0; i < before; i++) {
        kvm.write(0, 0, i, 1);
        reaper.reap(clean());
      }
      for (let i = 0; i < now; i++) kvm.write(0, 0, i, 1);
      expect(ring.waiting()).toBe(now);
      for (let count = 1; count <= ENTRIES; count++) expect(ring.hasDirty(count)).toBe(now >= count);
      expect(reaper.anyHas(1)).toBe(now > 0);
    }),
  );
});

test('entries of slots that are not tracked are reset and not reported', () => {
  const kvm = new SimulatedRings([8, 8], 1, ENTRIES, RESERVE);
  const rings = kvm.rings.map((words) => new VcpuRing(words, new Int32Array(1), 0));
  const reaper = new RingReaper({
    ...{ rings, slots: [{ slot: 1, pageCount: 8 }], collected: new Int32Array(1) },
    reset: () => kvm.reset(),
  });
  kvm.write(0, 0, 3, 1);
  kvm.write(0, 1, 5, 1);
  const bitmap = new DirtyBitmap(8);
  reaper.reap([bitmap]);
  expect(pagesIn([bitmap])).toEqual(['0:5']);
  expect(kvm.isFull(0)).toBe(false);
  expect(kvm.rings[0]?.filter((_, i) => i % 4 === 0).every((flags) => flags === 0)).toBe(true);
});

test('a page that its slot does not have, and a KVM that resets what was not collected or nothing, are failures', async () => {
  const { kvm, reaper } = vm();
  kvm.rings[0]?.set([1, 0, 70, 0], 0);
  expect((await errorOf(() => reaper.reap(clean()))).message).toMatch(/page 70 of slot 0, which has 70 pages/);

  for (const [answer, said] of [
    [2, /1 more entries .* something else reaps them too/],
    [0, /does not reset 1 entries/],
  ] as const) {
    const { kvm: other, rings } = vm();
    const slots = SLOTS.map((pageCount, slot) => ({ slot, pageCount }));
    const failing = new RingReaper({ rings, slots, collected: new Int32Array(VCPUS), reset: () => answer });
    other.write(1, 0, 1, 1);
    const error = await errorOf(() => failing.reap(clean()));
    expect([error.code, error.message]).toEqual(['GODWIT_TRACKER_FAILED', expect.stringMatching(said)]);
  }
});

/** A KVM that emulates instructions looks at the ring between many of them only, and overruns what it keeps in reserve. */
test('a ring that KVM has overrun is never taken for whole; given up, it is exact again', () => {
  fc.assert(
    fc.property(
      fc.nat(3 * ENTRIES),
      fc.nat(ENTRIES - RESERVE - 1),
      fc.integer({ min: ENTRIES, max: 2 * ENTRIES - RESERVE - 1 }),
      fc.boolean(),
      fc.array(fc.array(place, { maxLength: ENTRIES - RESERVE }), { minLength: 1, maxLength: 6 }),
      (before, waiting, burst, whileReset, later) => {
        const { kvm, reaper } = vm();
        for (let i = 0; i < before; i++) {
          kvm.write(1, 0, i % 70, 1);
          reaper.reap(clean());
        }
        // Overrun by less than what makes a ring full: the vCPU could not run otherwise, until the VM is closed.
        fc.pre(waiting + burst < 2 * ENTRIES - RESERVE);
        const overrun = (): void => {
          kvm.beforeReset = () => undefined;
          for (let page = waiting; page < waiting + burst; page++) kvm.write(1, 0, page, 1);
        };
        for (let page = 0; page < waiting; page++) kvm.write(1, 0, page, 1);
        // Either before the reap, or when its entries are collected and not reset yet: KVM writes over those then.
        if (whileReset && waiting > 0) kvm.beforeReset = overrun;
        else overrun();
        expect(() => reaper.reap(clean())).toThrow(/overwritten some/);
        kvm.beforeReset = () => undefined;

        kvm.disarmAll();
        reaper.giveUp();
        for (let vcpu = 0; vcpu < VCPUS; vcpu++) expect([vcpu, kvm.isFull(vcpu)]).toEqual([vcpu, false]);
        kvm.armAll();
        for (const places of later) {
          const written = new Set<string>();
          for (const { slot, page } of places) {
            if (kvm.isFull(1)) break;
            kvm.write(1, slot, page, 2);
            written.add(`${slot}:${page}`);
          }
          const bitmaps = clean();
          reaper.reap(bitmaps);
          expect(pagesIn(bitmaps).sort()).toEqual([...written].sort());
        }
      },
    ),
    { numRuns: 500 },
  );
});

test('whatever overruns follow each other, none goes unnoticed, every vCPU runs on, and the rest is exact', () => {
  const burst = fc.record({
    do: fc.constant('burst' as const),
    vcpu: fc.nat(VCPUS - 1),
    first: fc.nat(69),
    // Up to four times around the ring.
    pages: fc.oneof(fc.nat(ENTRIES), fc.nat(4 * ENTRIES)),
  });
  const step = fc.oneof(
    { weight: 3, arbitrary: burst },
    {
      weight: 2,
      arbitrary: fc.record({ do: fc.constant('reap' as const), during: fc.option(burst, { nil: undefined }) }),
    },
    { weight: 1, arbitrary: fc.record({ do: fc.constant('stop' as const) }) },
  );
  fc.assert(
    fc.property(fc.array(step, { minLength: 10, maxLength: 80 }), (steps) => {
      const { kvm, reaper } = vm();
      let written = new Set<string>();
      let during = new Set<string>();
      const run = (into: Set<string>, { vcpu, first, pages }: { vcpu: number; first: number; pages: number }): void => {
        if (kvm.isFull(vcpu)) return;
        for (let i = 0; i < pages; i++) {
          kvm.write(vcpu, 0, (first + i) % 70, 1, true);
          into.add(`0:${(first + i) % 70}`);
        }
      };
      const giveUp = (): void => {
        kvm.beforeReset = () => undefined;
        kvm.disarmAll();
        reaper.giveUp();
        letRun(kvm, reaper);
        kvm.armAll();
        kvm.overwritten = false;
        kvm.brim = false;
        written = new Set();
        during = new Set();
      };
      for (const each of steps) {
        if (each.do === 'burst') run(written, each);
        else if (each.do === 'stop') giveUp();
        else {
          const extra = each.during;
          kvm.beforeReset = () => {
            kvm.beforeReset = () => undefined;
            if (extra !== undefined) run(during, extra);
          };
          const bitmaps = clean();
          const lost = kvm.overwritten;
          try {
            reaper.reap(bitmaps);
          } catch (error) {
            expect([(error as Error).message, kvm.brim]).toEqual([expect.anything(), true]);
            giveUp();
            continue;
          }
          kvm.beforeReset = () => undefined;
          // One that is overwritten meanwhile was not collected yet: the next reap must notice.
          expect(lost).toBe(false);
          for (const page of pagesIn(bitmaps))
            expect([page, written.has(page) || during.has(page)]).toEqual([page, true]);
          expect([...written].filter((page) => !pagesIn(bitmaps).includes(page))).toEqual([]);
          // What was logged in the middle of the reap is in the next one.
          written = new Set(rearmedLater(kvm));
          during = new Set(written);
        }
      }
    }),
    { numRuns: 1000 },
  );
});

/** Every vCPU that cannot enter the guest says so, once late and then each time that it has tried, until it can. */
function letRun(kvm: SimulatedRings, reaper: RingReaper): void {
  const exits = new Array<number>(VCPUS).fill(1);
  reaper.makeRoom(exits);
  for (let tries = 0; tries < 100; tries++) {
    const full = exits.map((_, vcpu) => kvm.isFull(vcpu));
    if (!full.includes(true)) return;
    for (const [vcpu, is] of full.entries()) if (is) exits[vcpu] = (exits[vcpu] ?? 0) + 1;
    reaper.makeRoom(exits);
  }
  throw new Error('a vCPU never runs again');
}

/** The pages that wait in the rings. */
function rearmedLater(kvm: SimulatedRings): string[] {
  return kvm.rings.flatMap((ring) => {
    const pages: string[] = [];
    for (let at = 0; at < ring.length; at += 4) if (ring[at] === 1) pages.push(`${ring[at + 1]}:${ring[at + 2]}`);
    return pages;
  });
}
