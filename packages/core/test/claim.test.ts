import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { claimOf, type DirtyTracker, GodwitError, type MigratableDevice, reclaim } from '@godwit/core';
import { BufferMemory, engineParts, FaultyDevice, ToyVm } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { BLOCKS } from './toy-migration.js';

const { Claim } = engineParts;
type Direction = 'outgoing' | 'arriving';

const ID = 'a'.repeat(32);
const OTHER_ID = 'b'.repeat(32);

const vmOf = (parts: Partial<ToyVm> = {}): ToyVm => Object.assign(new ToyVm(BLOCKS), parts);

function thrownBy(act: () => unknown): GodwitError {
  try {
    act();
  } catch (error) {
    if (GodwitError.is(error)) return error;
    throw error;
  }
  throw new Error('nothing was thrown');
}

/** Whether `promise` has resolved once everything that can run has run. */
async function isResolved(promise: Promise<unknown>): Promise<boolean> {
  let resolved = false;
  void promise.then(() => {
    resolved = true;
  });
  for (let turns = 0; turns < 10; turns++) await Promise.resolve();
  return resolved;
}

function pendingWork() {
  let resolve: () => void = () => {};
  let reject: (error: Error) => void = () => {};
  const work = new Promise<void>((yes, no) => {
    resolve = yes;
    reject = no;
  });
  return { work, resolve, reject };
}

describe('a VM that is claimed', () => {
  test.each([
    ['outgoing', 'outgoing', 'which is under way; this migrate()'],
    ['outgoing', 'arriving', 'which is under way; this receive()'],
    ['arriving', 'outgoing', 'which is still arriving; this migrate()'],
    ['arriving', 'arriving', 'which is still arriving; this receive()'],
  ] as const)('%s is not claimed %s', (direction, wanted, why) => {
    const vm = vmOf();
    const claim = Claim.take(vm, direction, ID);
    const error = thrownBy(() => Claim.take(vm, wanted, OTHER_ID));
    expect([error.code, error.retry, error.message]).toEqual([
      'GODWIT_CLAIMED',
      true,
      `the VM is taken by migration ${ID}, ${why} has touched nothing. claimOf(vm).free resolves when it can be taken`,
    ]);
    expect(claimOf(vm)).toMatchObject({ state: direction, migrationId: ID, waitingFor: [] });
    claim.end();
    expect(claimOf(vm)).toMatchObject({ state: 'idle', migrationId: undefined, waitingFor: [] });
    Claim.take(vm, wanted, OTHER_ID).end();
  });

  test('leaves no part taken when it is refused for another', () => {
    const one = vmOf();
    const other = vmOf({ trackers: one.trackers });
    const claim = Claim.take(one, 'outgoing', ID);
    expect(thrownBy(() => Claim.take(other, 'outgoing', OTHER_ID)).message).toMatch(/^the dirty tracker "software" is/);
    const third = vmOf({ memory: other.memory });
    Claim.take(third, 'outgoing', OTHER_ID).end();
    claim.end();
  });

  test('has its devices for its own direction only', () => {
    const devices = [new FaultyDevice('uart')];
    const out = Claim.take(vmOf({ devices }), 'outgoing', ID);
    expect(thrownBy(() => Claim.take(vmOf({ devices }), 'outgoing', OTHER_ID)).message).toContain(
      'the device "uart" is',
    );
    const arriving = vmOf({ devices });
    const back = Claim.take(arriving, 'arriving', OTHER_ID);
    out.end();
    // Found by either direction.
    expect(claimOf(vmOf({ devices })).migrationId).toBe(OTHER_ID);
    expect(thrownBy(() => Claim.take(vmOf({ devices }), 'arriving', ID)).code).toBe('GODWIT_CLAIMED');
    back.end();
  });
});

describe('the parts of a VM', () => {
  test('are found once: memory that was abandoned since is not looked at', () => {
    const vm = vmOf();
    Claim.take(vm, 'outgoing', ID).end();
    for (const block of vm.memory.blocks) {
      block.view = () => {
        throw new Error('it was unmapped');
      };
    }
    const claim = Claim.take(vm, 'outgoing', OTHER_ID);
    expect(claimOf(vm).migrationId).toBe(OTHER_ID);
    claim.end();
  });

  test.each(['outgoing', 'arriving'] as const)(
    'count in every role: a device that is a tracker too, %s',
    (direction) => {
      const both = Object.assign(new FaultyDevice('gpu'), { name: 'DMA' }) as unknown as DirtyTracker & FaultyDevice;
      const [asDevice, asTracker] = [vmOf({ devices: [both] }), vmOf({ trackers: [both] })];
      for (const [first, second] of [
        [asDevice, asTracker],
        [asTracker, asDevice],
      ] as const) {
        const claim = Claim.take(first, direction, ID);
        expect(thrownBy(() => Claim.take(second, 'outgoing', OTHER_ID)).code).toBe('GODWIT_CLAIMED');
        claim.end();
      }
    },
  );
});

describe('a VM whose device another migration has', () => {
  test('is found by its own claim', () => {
    const devices = [new FaultyDevice('uart')];
    const out = Claim.take(vmOf({ devices }), 'outgoing', ID);
    const vm = vmOf({ devices });
    const back = Claim.take(vm, 'arriving', OTHER_ID);
    expect(claimOf(vm)).toMatchObject({ state: 'arriving', migrationId: OTHER_ID });
    out.end();
    back.end();
  });

  test('is idle for reclaim() while the device arrives, and outgoing while it leaves', () => {
    const devices = [new FaultyDevice('uart')];
    for (const [direction, state] of [['arriving', 'idle'] as const, ['outgoing', 'outgoing'] as const]) {
      const claim = Claim.take(vmOf({ devices }), direction, ID);
      const error = thrownBy(() => reclaim(vmOf({ devices }), { because: 'I say so' }));
      expect(error.message).toContain(`(it is "${state}")`);
      claim.end();
    }
  });
});

describe('the end of a claim', () => {
  test('comes when everything that it is kept for has settled, whichever way, and frees the VM once', async () => {
    const vm = vmOf();
    const claim = Claim.take(vm, 'outgoing', ID);
    const [early, resume, save] = [pendingWork(), pendingWork(), pendingWork()];
    claim.keepUntil(early.work, 'start() of the dirty tracker "kvm"');
    early.resolve();
    expect(await isResolved(claimOf(vm).free)).toBe(false);
    expect(claim.waitingFor).toEqual([]);
    // Two of one name are two.
    claim.keepUntil(resume.work, 'resume() of the VM');
    claim.keepUntil(save.work, 'resume() of the VM');
    const { free } = claimOf(vm);
    claim.end();
    expect(claimOf(vm)).toMatchObject({
      state: 'outgoing',
      waitingFor: ['resume() of the VM', 'resume() of the VM'],
    });
    expect(thrownBy(() => Claim.take(vm, 'outgoing', OTHER_ID)).message).toContain(
      `by migration ${ID}, which has not stopped: resume() of the VM, resume() of the VM has not returned; this migrate()`,
    );
    resume.resolve();
    expect([await isResolved(free), claim.waitingFor]).toEqual([false, ['resume() of the VM']]);
    expect(thrownBy(() => Claim.take(vm, 'outgoing', OTHER_ID)).message).toContain(
      'which has not stopped: resume() of the VM has not returned; this migrate()',
    );
    save.reject(new Error('on purpose'));
    expect([await isResolved(free), claim.state, claimOf(vm).state]).toEqual([true, 'idle', 'idle']);
    claim.end();
    expect(await isResolved(claimOf(vm).free)).toBe(true);
  });

  test('that is said again after the VM was claimed anew leaves the new claim alone', () => {
    const vm = vmOf();
    const first = Claim.take(vm, 'outgoing', ID);
    first.end();
    const second = Claim.take(vm, 'arriving', OTHER_ID);
    first.end();
    expect(claimOf(vm)).toMatchObject({ state: 'arriving', migrationId: OTHER_ID });
    second.end();
  });
});

describe('a VM that was handed over', () => {
  const handedOver = (vm: ToyVm) => {
    const claim = Claim.take(vm, 'outgoing', ID);
    claim.handOver();
    return claim;
  };

  test('stays so, whatever ends, and is refused for good', async () => {
    const vm = vmOf();
    const { work, resolve } = pendingWork();
    const claim = Claim.take(vm, 'outgoing', ID);
    claim.keepUntil(work, 'stop() of the dirty tracker "kvm"');
    claim.handOver();
    claim.end();
    resolve();
    expect(await isResolved(claimOf(vm).free)).toBe(false);
    for (const direction of ['outgoing', 'arriving'] as const) {
      const error = thrownBy(() => Claim.take(vm, direction, OTHER_ID));
      expect([error.code, error.retry]).toEqual(['GODWIT_HANDED_OVER', false]);
      expect(error.message).toContain(`the VM was handed over by migration ${ID}: its guest is at the destination`);
    }
    expect(claimOf(vm)).toMatchObject({ state: 'handedOver', migrationId: ID });
  });

  test('leaves its device to what arrives, not to what leaves', () => {
    const devices = [new FaultyDevice('uart')];
    handedOver(vmOf({ devices }));
    expect(thrownBy(() => Claim.take(vmOf({ devices }), 'outgoing', OTHER_ID)).code).toBe('GODWIT_HANDED_OVER');
    Claim.take(vmOf({ devices }), 'arriving', OTHER_ID).end();
  });

  test('is taken back by its own migration: refused to others as one under way, until that ends', () => {
    const vm = vmOf();
    const claim = handedOver(vm);
    claim.takeBack();
    expect(claimOf(vm)).toMatchObject({ state: 'outgoing', migrationId: ID });
    expect(thrownBy(() => Claim.take(vm, 'outgoing', OTHER_ID)).code).toBe('GODWIT_CLAIMED');
    claim.end();
    Claim.take(vm, 'outgoing', OTHER_ID).end();
  });

  test('is reclaimed for a reason, under every name of its memory, and is free when what hangs has returned', async () => {
    const named = () => {
      const memory = new BufferMemory(BLOCKS);
      for (const block of memory.blocks) Object.assign(block, { identity: 'memfd:claim+0' });
      return vmOf({ memory });
    };
    const [vm, twin] = [named(), named()];
    const claim = handedOver(vm);
    expect(claimOf(twin)).toMatchObject({ state: 'handedOver', migrationId: ID });
    for (const because of ['', ' \n', undefined, 7] as string[]) {
      expect(thrownBy(() => reclaim(vm, { because })).code).toBe('GODWIT_INVALID_ARGUMENT');
      expect(claimOf(vm).state).toBe('handedOver');
    }
    const { work, resolve } = pendingWork();
    claim.keepUntil(work, 'stop() of the dirty tracker "kvm"');
    const { free } = claimOf(vm);
    reclaim(twin, { because: 'the destination was powered off' });
    expect(claimOf(vm)).toMatchObject({ state: 'outgoing', waitingFor: ['stop() of the dirty tracker "kvm"'] });
    expect(await isResolved(free)).toBe(false);
    resolve();
    expect(await isResolved(free)).toBe(true);
    expect([claimOf(vm).state, claimOf(twin).state]).toEqual(['idle', 'idle']);
  });

  test('is the only one to reclaim', () => {
    const vm = vmOf();
    const because = 'I say so';
    const error = thrownBy(() => reclaim(vm, { because }));
    expect([error.code, error.message]).toEqual([
      'GODWIT_INVALID_STATE',
      'the VM was not handed over (it is "idle"): there is nothing to reclaim',
    ]);
    const claim = Claim.take(vm, 'outgoing', ID);
    expect(thrownBy(() => reclaim(vm, { because })).message).toContain('(it is "outgoing")');
    expect(claimOf(vm).state).toBe('outgoing');
    claim.end();
  });

  test('is not kept in memory by its claim', async () => {
    setFlagsFromString('--expose-gc');
    const collect = runInNewContext('gc') as () => void;
    const make = () => {
      const vm = vmOf();
      handedOver(vm);
      return new WeakRef(vm.memory);
    };
    const memory = make();
    // A WeakRef keeps its target until the end of the job that made it.
    await new Promise(setImmediate);
    collect();
    expect(memory.deref()).toBeUndefined();
  });
});

test('any sequence of claims is refused exactly where a list of what each has says so', () => {
  const which = fc.nat({ max: 2 });
  const step = fc.oneof(
    fc.record({
      kind: fc.constant('take' as const),
      memory: which,
      tracker: which,
      device: which,
      direction: fc.constantFrom<Direction>('outgoing', 'arriving'),
    }),
    fc.record({ kind: fc.constantFrom('end' as const, 'handOver' as const, 'reclaim' as const), nth: fc.nat() }),
  );
  fc.assert(
    fc.property(fc.array(step, { maxLength: 30 }), (steps) => {
      const memories = [0, 1, 2].map(() => new BufferMemory(BLOCKS));
      const trackers = [0, 1, 2].map((n) => ({ name: `tracker ${n}` }) as DirtyTracker);
      const devices = [0, 1, 2].map((n) => ({ id: `device ${n}` }) as MigratableDevice);
      const live: {
        readonly vm: ToyVm;
        readonly claim: ReturnType<typeof Claim.take>;
        readonly at: Extract<(typeof steps)[number], { kind: 'take' }>;
        readonly id: string;
        over: boolean;
      }[] = [];
      try {
        for (const [number, at] of steps.entries()) {
          if (at.kind === 'take') {
            const [memory, tracker, device] = [memories[at.memory], trackers[at.tracker], devices[at.device]];
            const vm = vmOf({ memory, trackers: [tracker], devices: [device] } as Partial<ToyVm>);
            const others = live.filter(
              (other) =>
                other.at.memory === at.memory ||
                other.at.tracker === at.tracker ||
                (other.at.device === at.device && other.at.direction === at.direction),
            );
            if (others.length === 0) {
              live.push({ vm, claim: Claim.take(vm, at.direction, `${number}`), at, id: `${number}`, over: false });
              continue;
            }
            // What was handed over is named first, since waiting does not help.
            const code = others.some(({ over }) => over) ? 'GODWIT_HANDED_OVER' : 'GODWIT_CLAIMED';
            expect(thrownBy(() => Claim.take(vm, at.direction, `${number}`)).code).toBe(code);
            continue;
          }
          const one = live[at.nth % Math.max(1, live.length)];
          if (one === undefined) continue;
          if (at.kind === 'end' && !one.over) {
            one.claim.end();
            live.splice(live.indexOf(one), 1);
          } else if (at.kind === 'handOver' && one.at.direction === 'outgoing' && !one.over) {
            one.claim.handOver();
            one.over = true;
          } else if (at.kind === 'reclaim' && one.over) {
            reclaim(one.vm, { because: 'it is here' });
            live.splice(live.indexOf(one), 1);
          }
          for (const { vm, id, over, at } of live) {
            expect(claimOf(vm)).toMatchObject({ state: over ? 'handedOver' : at.direction, migrationId: id });
          }
        }
      } finally {
        for (const { claim, over } of live) {
          if (over) claim.takeBack();
          claim.end();
        }
      }
    }),
  );
});
