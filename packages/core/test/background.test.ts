import {
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
import { ToyVm, VirtualClock } from '@godwit/core/testing';
import { expect, test } from '@jest/globals';
import { BLOCKS, filledVm, start, states, type Toy } from './toy-migration.js';

const TARGET = { module: undefined, make: 'toy', options: undefined };

/** Protects nothing; notes what it is told, in order, in `log`. */
class ToyProtection implements WriteProtection {
  readonly log: string[];
  contents: DirtyBitmaps | undefined;
  reasons: readonly string[] = [];
  saved: (memory: { resolve(): void; reject(error: Error): void }) => void = ({ resolve }) => resolve();
  freeze: () => Promise<number> = async () => 3;
  limits: number[] = [];

  constructor(log: string[]) {
    this.log = log;
  }

  async ready(): Promise<void> {}

  blockers(): readonly string[] {
    return this.reasons;
  }

  async protect({ contents, target }: PagesToProtect): Promise<ProtectedMemory> {
    expect(target).toBe(TARGET);
    this.contents = contents;
    this.log.push('protect');
    let saved: Promise<void> = new Promise(() => {});
    const status = this.#status(contents.count());
    const memory: ProtectedMemory = {
      get saved() {
        return saved;
      },
      freeze: async () => {
        this.log.push('freeze');
        saved = new Promise((resolve, reject) => this.saved({ resolve, reject }));
        saved.catch(() => {});
        return this.freeze();
      },
      limit: (bytes) => void this.limits.push(bytes),
      status: () => status,
      end: async () => {
        if (this.log.at(-1) !== 'lift') this.log.push('lift');
      },
    };
    return memory;
  }

  #status(pages: number): ProtectionStatus {
    return {
      ...{ pagesLeft: 0, pagesTotal: pages, pagesCopied: 1, writtenBytes: pages * 4096, faults: 1, faultsPerSecond: 0 },
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
    ...{ clock, source, destination },
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
