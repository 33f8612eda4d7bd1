import {
  claimOf,
  type DirtyBitmaps,
  GodwitError,
  type LinkConnector,
  type MigratableDevice,
  type MigrateOptions,
  type PagesToProtect,
  type ProtectedMemory,
  type ProtectionStatus,
  type WriteProtection,
} from '@godwit/core';
import { type MemoryLinkOptions, ToyVm, VirtualClock } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import { held } from './played-stream.js';
import { BLOCKS, filledVm, start, states, type Toy } from './toy-migration.js';

const TARGET = { module: undefined, make: 'toy', options: undefined };

/** Protects nothing; notes what it is told, in order, in `log`. */
class ToyProtection implements WriteProtection {
  readonly log: string[];
  contents: DirtyBitmaps | undefined;
  reasons: readonly string[] = [];
  saved: (memory: { resolve(): void; reject(error: Error): void }) => void = ({ resolve }) => resolve();
  freeze: () => Promise<number> = async () => 3;
  readonly limits: number[] = [];
  /** The limits that were set before the memory was frozen. */
  limitsBefore: readonly number[] = [];
  ready: () => Promise<void> = async () => {};
  protecting: () => Promise<void> = async () => {};
  ending: () => Promise<void> = async () => {};
  pagesLeft = 0;

  constructor(log: string[]) {
    this.log = log;
  }

  blockers(): readonly string[] {
    return this.reasons;
  }

  async protect({ contents, target }: PagesToProtect): Promise<ProtectedMemory> {
    expect(target).toBe(TARGET);
    this.contents = contents;
    this.log.push('protect');
    await this.protecting();
    let saved: Promise<void> = new Promise(() => {});
    const pages = contents.count();
    const memory: ProtectedMemory = {
      get saved() {
        return saved;
      },
      freeze: async () => {
        this.log.push('freeze');
        this.limitsBefore = [...this.limits];
        saved = new Promise((resolve, reject) => this.saved({ resolve, reject }));
        saved.catch(() => {});
        return this.freeze();
      },
      limit: (bytes) => void this.limits.push(bytes),
      status: () => this.#status(pages),
      end: async () => {
        if (this.log.at(-1) !== 'lift') this.log.push('lift');
        await this.ending();
      },
    };
    return memory;
  }

  #status(pages: number): ProtectionStatus {
    return {
      ...{
        pagesLeft: this.pagesLeft,
        pagesTotal: pages,
        pagesCopied: 1,
        writtenBytes: (pages - this.pagesLeft) * 4096,
      },
      ...{ faults: 1, faultsPerSecond: 0 },
      ...{ faultsWithoutRoom: 0, latencyDistribution: [1], worstLatencyUs: 1, blocked: [] },
      ...{ bufferBytes: 4096, bufferedBytes: 0, bufferHighBytes: 4096 },
    };
  }
}

function device(log: string[], save: () => Promise<void> = async () => {}): MigratableDevice {
  return {
    id: 'disk',
    version: 1,
    async *save() {
      log.push('save');
      await save();
      yield Uint8Array.of(1, 2, 3);
    },
    async load(state) {
      const bytes: number[] = [];
      for await (const chunk of state) bytes.push(...chunk);
      log.push(`load ${bytes.join(' ')}`);
    },
  };
}

interface Saving extends Toy {
  readonly log: string[];
  readonly protection: ToyProtection;
}

function saving(
  options: Partial<MigrateOptions> = {},
  prepare: (protection: ToyProtection) => void = () => {},
  save?: () => Promise<void>,
  withTarget = true,
  taps: MemoryLinkOptions = {},
): Saving {
  const log: string[] = [];
  const clock = new VirtualClock();
  const protection = new ToyProtection(log);
  prepare(protection);
  const source = filledVm();
  source.devices = [device(log, save)];
  // Its trackers are not asked: nobody has to have one.
  source.trackers = [];
  source.onPause = () => void log.push('pause');
  source.onResume = () => void log.push('resume');
  const destination = new ToyVm(BLOCKS, { running: false, devices: [device(log)] });
  const toy = start({
    ...{ clock, source, destination, link: taps },
    migrate: { clock, background: protection, ...options },
    connector: {
      async connect(request, signal) {
        const link = await toy.link.connector.connect(request, signal);
        return withTarget ? { ...link, pageTarget: () => TARGET } : link;
      },
    } satisfies LinkConnector,
  });
  return { ...toy, log, protection };
}

test('memory is protected, the guest paused for its devices alone, and its state kept until all is saved', async () => {
  const toy = saving({ bandwidthLimit: 1000 }, (protection) => {
    protection.saved = ({ resolve }) => {
      // The guest runs, and nothing has left yet.
      void Promise.resolve().then(async () => {
        await toy.clock.sleep(250);
        expect([toy.source.running, toy.migration.ownership, toy.migration.state]).toEqual([true, 'running', 'active']);
        expect(toy.log).toEqual(['protect', 'pause', 'save', 'freeze', 'resume']);
        toy.migration.adjust({ bandwidthLimit: 2000 });
        await toy.clock.sleep(250);
        resolve();
      });
    };
  });
  const { sent } = await toy.settled();
  expect(sent.status).toBe('fulfilled');
  expect(toy.log).toEqual(['protect', 'pause', 'save', 'freeze', 'resume', 'lift', 'load 1 2 3', 'lift']);
  expect(states(toy.events)).toEqual(['setup', 'active', 'device', 'active', 'completed']);
  expect([toy.source.running, toy.migration.ownership]).toEqual([true, 'running']);
  expect(toy.protection.contents?.count()).toBe(32);
  expect([...new Set(toy.protection.limits)]).toEqual([1000, 2000]);
  // Saving begins with the freeze.
  expect(toy.protection.limitsBefore).toEqual([1000]);
  const summary = await toy.migration.result;
  expect(summary).toMatchObject({
    ...{ rounds: [], runState: 'running', pages: { raw: 32, zero: 0 }, deviceBytes: 3 },
    background: { pagesFrozen: 3, protection: { pagesTotal: 32 } },
  });
  const { stopMs, devicesMs, freezeMs, resumeMs, pausedMs } = summary.background as NonNullable<
    typeof summary.background
  >;
  expect(stopMs + devicesMs + freezeMs + resumeMs).toBeCloseTo(pausedMs, 9);
  expect(summary.downtimeMs).toBe(pausedMs);
  expect(toy.events.filter(({ type }) => type === 'protection').length).toBeGreaterThan(3);
  // The VM is free for the next one.
  expect([claimOf(toy.source).state, toy.link.openStreams]).toEqual(['idle', 0]);
  expect(() => toy.migration.switchOver()).toThrow(expect.objectContaining({ code: 'GODWIT_INVALID_STATE' }));
});

test.each([
  ['devices', { save: new Error('no') }, 'GODWIT_DEVICE_FAILED'],
  ['freezing', { freeze: new GodwitError('GODWIT_SYSCALL', 'no') }, 'GODWIT_SYSCALL'],
  ['saving', { saved: new GodwitError('GODWIT_SYSCALL', 'full') }, 'GODWIT_SYSCALL'],
] as const)('a failure in %s leaves the guest running and unprotected', async (_, failing, code) => {
  const errors = failing as { save?: Error; freeze?: Error; saved?: Error };
  const toy = saving(
    {},
    (protection) => {
      if (errors.freeze !== undefined) protection.freeze = () => Promise.reject(errors.freeze);
      if (errors.saved !== undefined) protection.saved = ({ reject }) => reject(errors.saved as Error);
    },
    errors.save && (() => Promise.reject(errors.save)),
  );
  const ends = await toy.settled();
  expect([ends.code, toy.source.running, toy.migration.ownership]).toEqual([code, true, 'kept']);
  expect(toy.log.filter((step) => step === 'lift').length).toBeGreaterThan(0);
  expect(toy.destination.running).toBe(false);
});

test('a device that hangs ends it at the bound of a pause', async () => {
  const toy = saving({ pauseLimitMs: 700 }, undefined, () => new Promise(() => {}));
  const ends = await toy.settled();
  expect([ends.code, toy.source.running, toy.migration.ownership]).toEqual(['GODWIT_SWITCHOVER_OVERRAN', true, 'kept']);
  expect(toy.log).toEqual(['protect', 'pause', 'save', 'lift', 'resume']);
});

test('it can be cancelled until the end has a name, and does not switch over', async () => {
  const toy = saving({}, (protection) => {
    protection.saved = () => {
      expect(() => toy.migration.switchOver()).toThrow(expect.objectContaining({ code: 'GODWIT_INVALID_STATE' }));
      void toy.clock.sleep(100).then(() => {
        expect(() => toy.migration.switchOver()).toThrow(expect.objectContaining({ code: 'GODWIT_UNSUPPORTED' }));
        expect(toy.migration.cancel()).toBe(true);
      });
    };
  });
  const ends = await toy.settled();
  expect([ends.code, toy.source.running, toy.migration.state]).toEqual(['GODWIT_CANCELLED', true, 'cancelled']);
  const late = saving();
  late.migration.subscribe((event) => {
    if (event.type === 'completed') expect(late.migration.cancel()).toBe(false);
  });
  expect((await late.settled()).code).toBeUndefined();
});

test('a guest that ends once its moment is over is saved all the same', async () => {
  const toy = saving({}, (protection) => {
    protection.saved = ({ resolve }) => {
      toy.source.onResume = () => {
        toy.source.ended = true;
      };
      void toy.clock.sleep(500).then(resolve);
    };
  });
  expect((await toy.settled()).code).toBeUndefined();
});

test('what blocks it is told before anything is touched, with every reason', async () => {
  const toy = saving({}, (protection) => {
    protection.reasons = ['it is pinned'];
  });
  Object.assign(toy.source.devices[0] as object, { wholeMemory: 'its DMA does not wait' });
  await expect(toy.migration.result).rejects.toMatchObject({
    code: 'GODWIT_BLOCKED',
    message: expect.stringMatching(/it is pinned; device "disk" accesses memory without page faults: its DMA/),
  });
  // Nobody has connected to it.
  toy.incoming.cancel('over');
  await toy.settled();
  expect(toy.log).toEqual([]);
});

test('a link that takes pages in rounds only is refused', async () => {
  const toy = saving({}, undefined, undefined, false);
  expect([(await toy.settled()).code, toy.log]).toEqual(['GODWIT_UNSUPPORTED', []]);
});

test.each([
  [{ policy: 'urgent' }, /no policy/],
  [{ force: true, verify: true }, /no verify, force/],
  [{ background: {} as never }, /what writeProtection\(\) of @godwit\/workers returns/],
] as const)('an option that has no use is refused: %p', (options, message) => {
  expect(() => saving(options)).toThrow(
    expect.objectContaining({ code: 'GODWIT_INVALID_ARGUMENT', message: expect.stringMatching(message) }),
  );
});

test('each step is waited for, and the summary has its time', async () => {
  const toy: Saving = saving(
    {},
    (protection) => {
      protection.protecting = () => toy.clock.sleep(30);
      protection.freeze = () => toy.clock.sleep(5).then(() => 7);
      protection.saved = ({ resolve }) => void toy.clock.sleep(505).then(resolve);
    },
    () => toy.clock.sleep(20),
  );
  const { source, log, clock } = toy;
  const slowly = (step: string) => async () => {
    log.push(step);
    await clock.sleep(step === 'pause' ? 50 : 40);
    log.push(`${step}d`);
  };
  source.onPause = slowly('pause');
  source.onResume = slowly('resume');
  toy.migration.subscribe((event) => {
    if (event.type === 'state') log.push(event.state);
    else if (event.type === 'switchover-start' || event.type === 'round-start') log.push(event.type);
  });
  const { background } = await toy.migration.result;
  expect(background).toMatchObject({
    ...{ protectMs: 30, stopMs: 50, devicesMs: 20, freezeMs: 5, resumeMs: 40, pausedMs: 115, savingMs: 460 },
    pagesFrozen: 7,
  });
  expect(log).toEqual([
    ...['setup', 'active', 'protect', 'switchover-start', 'pause', 'paused', 'device', 'save', 'freeze'],
    ...['resume', 'resumed', 'active', 'round-start', 'lift', 'load 1 2 3', 'lift', 'completed'],
  ]);
});

test('device state leaves once all pages are saved, and in its order', async () => {
  const leaves: string[] = [];
  const toy: Saving = saving({}, undefined, undefined, true, {
    // Each frame takes a while, and only one is on its way.
    ...{ bytesPerSecond: 1000, capacity: 1 },
    fromSource: (frame, payload) => {
      const { log } = toy;
      if (frame.type === 'device' || frame.type === 'roundEnd') leaves.push(`${frame.type} after "${log.at(-1)}"`);
      return { frame, payload };
    },
  });
  const [disk] = toy.source.devices;
  Object.assign(disk as object, {
    async *save() {
      for (const byte of [1, 2, 3]) yield Uint8Array.of(byte);
    },
  });
  expect((await toy.settled()).code).toBeUndefined();
  // A device has a last piece, which is empty.
  expect(leaves).toEqual([...new Array(4).fill('device after "lift"'), 'roundEnd after "lift"']);
  expect(toy.log).toContain('load 1 2 3');
});

test('the result comes when the connection is closed, and then the devices are released', async () => {
  const toy = saving();
  const [disk] = toy.source.devices;
  const open: number[] = [];
  Object.assign(disk as object, {
    release: async () => {
      open.push(toy.link.openStreams);
      await toy.clock.sleep(100);
      open.push(toy.link.openStreams);
    },
  });
  await toy.migration.result;
  expect(open).toEqual([0, 0]);
});

describe('progress', () => {
  test('is what was saved so far, told every progressIntervalMs', async () => {
    const toy: Saving = saving({ progressIntervalMs: 1 }, (protection) => {
      protection.pagesLeft = 32;
      protection.saved = ({ resolve }) => {
        void toy.clock.sleep(10.5).then(async () => {
          protection.pagesLeft = 12;
          await toy.clock.sleep(5);
          expect(toy.migration.status().progress).toMatchObject({ roundPages: 32, roundPagesSent: 20 });
          protection.pagesLeft = 0;
          resolve();
        });
      };
    });
    const { wireBytes, pages } = await toy.migration.result;
    expect(toy.migration.status().progress).toMatchObject({ roundPages: 32, roundPagesSent: 32 });
    expect([wireBytes > 32 * 4096, pages.raw]).toEqual([true, 32]);
    const left = toy.events.flatMap((event) => (event.type === 'protection' ? [event.protection.pagesLeft] : []));
    expect(left).toEqual([...new Array(10).fill(32), ...new Array(5).fill(12), 0]);
    const begun = toy.events.filter(({ type }) => type === 'round-start' || type === 'switchover-start');
    expect(begun).toMatchObject([{ attempt: 1 }, { round: 1, dirtyPages: 32 }]);
  });

  test('is told to nobody with an interval of 0, and what is saved is counted nevertheless', async () => {
    const toy: Saving = saving({ progressIntervalMs: 0 }, (protection) => {
      protection.pagesLeft = 32;
      protection.saved = ({ resolve }) => {
        void toy.clock.sleep(1000).then(() => {
          protection.pagesLeft = 0;
          resolve();
        });
      };
    });
    await toy.migration.result;
    expect(toy.events.filter(({ type }) => type === 'protection')).toEqual([]);
    expect(toy.migration.status().progress).toMatchObject({ roundPagesSent: 32 });
  });
});

describe('threads that are slow', () => {
  test('to be ready: nothing is touched before, and a caller may cancel', async () => {
    const ready = held();
    const toy = saving({}, (protection) => {
      protection.ready = () => ready.promise;
    });
    await toy.clock.sleep(1000);
    expect(toy.log).toEqual([]);
    toy.migration.cancel();
    expect([(await toy.settled()).code, toy.log, claimOf(toy.source).state]).toEqual(['GODWIT_CANCELLED', [], 'idle']);
    const late = held();
    const other = saving({}, (protection) => {
      protection.ready = () => late.promise;
    });
    await other.clock.sleep(1000);
    late.release();
    expect((await other.settled()).code).toBeUndefined();
  });

  test('to protect: a caller may cancel, and the VM stays claimed until the protection is lifted', async () => {
    const protecting = held();
    const toy = saving({}, (protection) => {
      protection.protecting = () => protecting.promise;
    });
    await toy.clock.sleep(1000);
    toy.migration.cancel();
    expect((await toy.settled()).code).toBe('GODWIT_CANCELLED');
    expect([toy.log, claimOf(toy.source).waitingFor]).toEqual([['protect'], ['the protection of the memory']]);
    protecting.release();
    await claimOf(toy.source).free;
    expect(toy.log).toEqual(['protect', 'lift']);
  });

  test('to end: nothing is flushed before the protection is lifted', async () => {
    const ends = [held(), held()];
    let calls = 0;
    const toy = saving({}, (protection) => {
      protection.ending = () => (ends[calls++] ?? held()).promise;
    });
    await toy.clock.sleep(1000);
    expect(toy.log).toEqual(['protect', 'pause', 'save', 'freeze', 'resume', 'lift']);
    ends[0]?.release();
    await toy.migration.result;
    expect(claimOf(toy.source).waitingFor).toEqual(['the threads of a background snapshot']);
    ends[1]?.release();
    await claimOf(toy.source).free;
  });
});

test('memory that cannot be protected ends it, and the VM is free', async () => {
  const toy = saving({}, (protection) => {
    protection.protecting = () => Promise.reject(new GodwitError('GODWIT_SYSCALL', 'no'));
  });
  expect([(await toy.settled()).code, toy.log]).toEqual(['GODWIT_SYSCALL', ['protect']]);
  await claimOf(toy.source).free;
});

describe('the pause', () => {
  test('that was too long is over, and what hung goes no further', async () => {
    const toy: Saving = saving({ pauseLimitMs: 700 }, undefined, () => toy.clock.sleep(5000));
    const { code, sent } = await toy.settled();
    expect([code, toy.clock.now() < 5000]).toEqual(['GODWIT_SWITCHOVER_OVERRAN', true]);
    expect(sent).toMatchObject({ reason: { message: expect.stringContaining('within pauseLimitMs (700 ms)') } });
    await toy.clock.sleep(10_000);
    expect(toy.log).toEqual(['protect', 'pause', 'save', 'lift', 'resume']);
    expect([toy.source.running, claimOf(toy.source).state]).toEqual([true, 'idle']);
  });

  test('may be as long as it takes where there is no limit', async () => {
    const toy: Saving = saving({ pauseLimitMs: 0 }, undefined, () => toy.clock.sleep(600_000));
    expect((await toy.settled()).code).toBeUndefined();
  });

  test.each(['a device', 'the freeze'])('ends at once when the caller cancels in %s', async (where) => {
    const toy: Saving = saving(
      { pauseLimitMs: 60_000 },
      (protection) => {
        if (where === 'the freeze') protection.freeze = () => new Promise(() => {});
      },
      where === 'a device' ? () => new Promise(() => {}) : undefined,
    );
    await toy.clock.sleep(100);
    toy.migration.cancel();
    expect((await toy.settled()).code).toBe('GODWIT_CANCELLED');
    expect(toy.clock.now()).toBeLessThan(5000);
    expect(toy.source.running).toBe(true);
  });

  test('of a guest that has ended finds nothing to save', async () => {
    const toy = saving();
    toy.source.onPause = () => {
      toy.source.ended = true;
    };
    expect([(await toy.settled()).code, toy.log]).toEqual(['GODWIT_GUEST_ENDED', ['protect', 'lift']]);
  });
});

describe('the file', () => {
  test('that never gets its name ends it, with the guest running', async () => {
    const toy = saving({ switchoverTimeoutMs: 3000 }, undefined, undefined, true, {
      fromDestination: (frame, payload) => (frame.type === 'ready' ? undefined : { frame, payload }),
    });
    const { code, sent } = await toy.settled();
    expect([code, toy.source.running, toy.destination.running]).toEqual(['GODWIT_TIMEOUT', true, false]);
    const { message } = (sent as PromiseRejectedResult).reason as GodwitError;
    expect(message).toContain('not whole on its disk within switchoverTimeoutMs (3000 ms)');
    expect(message).toContain('the guest runs on');
    expect(message).not.toContain('paused');
  });

  test('that may get its name later is said to, with the guest running', async () => {
    const toy = saving({ switchoverTimeoutMs: 3000 }, undefined, undefined, true, {
      fromDestination: (frame, payload) => (frame.type === 'running' ? undefined : { frame, payload }),
    });
    const { code, sent } = await toy.settled();
    expect([code, toy.source.running]).toEqual(['GODWIT_TIMEOUT', true]);
    const { message } = (sent as PromiseRejectedResult).reason as GodwitError;
    expect(message).toContain('did not get its name within switchoverTimeoutMs (3000 ms), and may get it later');
  });

  test.each(['roundAck', 'ready'] as const)(
    'that waits for "%s" is given up at once when the caller cancels',
    async (type) => {
      const toy = saving({}, undefined, undefined, true, {
        fromDestination: (frame, payload) => {
          if (frame.type !== type) return { frame, payload };
          void toy.clock.sleep(100).then(() => toy.migration.cancel());
          return undefined;
        },
      });
      expect([(await toy.settled()).code, toy.source.running]).toEqual(['GODWIT_CANCELLED', true]);
      expect(toy.clock.now()).toBeLessThan(5000);
    },
  );

  test('gets no name once the caller has cancelled, in whatever moment', async () => {
    const outcomes = new Set<string>();
    for (let turns = 0; turns < 24; turns++) {
      let cancelled: boolean | undefined;
      let went = false;
      const toy: Saving = saving({}, undefined, undefined, true, {
        fromSource: (frame, payload) => {
          if (frame.type === 'go') went = true;
          return { frame, payload };
        },
        fromDestination: (frame, payload) => {
          if (frame.type !== 'ready') return { frame, payload };
          void (async () => {
            for (let i = 0; i < turns; i++) await Promise.resolve();
            cancelled = toy.migration.cancel();
          })();
          return { frame, payload };
        },
      });
      const { code } = await toy.settled();
      outcomes.add(`${cancelled === true && !went ? 'no name' : 'a name'}: ${code ?? 'completed'}`);
    }
    expect([...outcomes].sort()).toEqual(['a name: completed', 'no name: GODWIT_CANCELLED']);
  });
});
