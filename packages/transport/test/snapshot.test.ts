import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { type ConvergencePolicy, delta, migrate, receive, reclaim } from '@godwit/core';
import { FaultyDevice, FaultyTracker, type ToyVm } from '@godwit/core/testing';
import { connectTo, file, listenOn, transportFromUri } from '@godwit/transport';
import { afterAll, describe, expect, jest, test } from '@jest/globals';
import {
  atFrame,
  BLOCKS,
  fill,
  machine,
  PAGE,
  pageOf,
  partials,
  restore,
  save,
  saving,
  snapshotFolder,
  statesOf,
} from './snapshot-machine.js';

jest.setTimeout(60_000);

const { folder, newPath, close } = await snapshotFolder();
afterAll(close);

/** So many rounds, whatever the prediction says. */
function rounds(count: number): ConvergencePolicy {
  return ({ outcome }) => ({ action: outcome.round < count ? 'continue' : 'switchover', reason: 'as planned' });
}

describe.each([0, 1, 2, 8])('with %i page channels', (pageChannels) => {
  test.each([false, true])('a guest is saved and restored, verified: %p', async (verify) => {
    const path = newPath();
    const vm = fill(machine());
    const summary = await save(vm, path, { pageChannels, verify, description: { name: 'vm1', cpus: 2 } });
    expect([summary.verified, vm.running]).toEqual([verify, false]);
    const present = BLOCKS.map(({ byteLength }) => byteLength / PAGE).map((pages) => pages - Math.floor(pages / 7) * 4);
    expect(summary.pages.raw).toBeGreaterThanOrEqual(Math.min(...present));

    const copy = machine({ empty: true });
    const seen: unknown[] = [];
    const { summary: received } = await restore(copy, path, { verify, onDescription: (value) => seen.push(value) });
    expect(vm.memory.firstDifference(copy.memory)).toBeUndefined();
    expect(statesOf(copy)).toEqual(statesOf(vm));
    expect([copy.running, copy.resumes, received.rounds, received.verified]).toEqual([true, 1, 1, verify]);
    expect(seen).toEqual([{ name: 'vm1', cpus: 2 }]);
    expect(received.pages).toMatchObject({ raw: summary.pages.raw, zero: 0 });
    expect(partials(folder)).toEqual([]);
  });
});

test('a snapshot that was saved with some channels is restored with others', async () => {
  const path = newPath();
  const vm = fill(machine());
  await save(vm, path, { pageChannels: 2 });
  for (const pageChannels of [0, 1, 5]) {
    const copy = machine({ empty: true });
    await restore(copy, path, { pageChannels });
    expect(vm.memory.equals(copy.memory)).toBe(true);
  }
});

test.each([
  [0, undefined, 8],
  [11, undefined, 11],
  [2, 0, 0],
  [2, 3, 3],
])(
  'a snapshot that was saved with %i channels, and asked for %p, is restored with %i',
  async (pageChannels, wanted, count) => {
    const path = newPath();
    await save(fill(machine()), path, { pageChannels });
    const links = await listenOn(file({ path, ...(wanted !== undefined && { pageChannels: wanted }) }));
    const never = new AbortController().signal;
    const link = await links.accept(never);
    expect((await link.control.read())?.frame).toMatchObject({ type: 'hello', pageChannels: count });
    expect(await link.pageChannels('0'.repeat(32), count, never)).toHaveLength(count);
    await link.control.close();
  },
);

test('pages that are sent again overwrite themselves: the file does not grow, whatever the number of rounds', async () => {
  const sizes: number[] = [];
  for (const count of [2, 40]) {
    const path = newPath();
    const vm = fill(machine());
    const migration = saving(vm, path, { pageChannels: 2, policy: rounds(count) });
    migration.subscribe((event) => {
      if (event.type !== 'round-start' || !vm.running) return;
      // Always the same pages; some turn zero and back again.
      for (let page = 0; page < 60; page++) vm.write(0, page * PAGE, pageOf(event.round * 60 + page));
      if (event.round % 2 === 1) for (const page of [3, 64, 65]) vm.write(1, page * PAGE, new Uint8Array(PAGE));
      else vm.write(1, 64 * PAGE, pageOf(event.round));
    });
    const { pages } = await migration.result;
    expect(pages.raw).toBeGreaterThan(count * 60);
    // Without the holes, and rounded up to blocks of the file system.
    sizes.push(statSync(path).size);
    expect(statSync(path).blocks * 512).toBeLessThan((250 + 16) * PAGE);
    const copy = machine({ empty: true });
    await restore(copy, path);
    expect(vm.memory.firstDifference(copy.memory)).toBeUndefined();
  }
  // The number of pages that ended as zero differs by a few digests of 8 bytes.
  expect(Math.abs((sizes[0] as number) - (sizes[1] as number))).toBeLessThan(100);
});

test('the guest may go on beside its snapshot, which keeps the moment', async () => {
  const path = newPath();
  const vm = fill(machine());
  await save(vm, path);
  const then = machine({ empty: true });
  await restore(then, path);
  await vm.resume();
  vm.write(0, 0, pageOf(12345));
  const again = machine({ empty: true });
  await restore(again, path);
  expect(then.memory.equals(again.memory)).toBe(true);
  expect(vm.memory.firstDifference(again.memory)).toEqual({ blockIndex: 0, page: 0 });
  // And can be saved again, over the old one: by who says that the guest, though it was handed over to a file, is here.
  await expect(save(vm, path)).rejects.toMatchObject({ code: 'GODWIT_HANDED_OVER' });
  reclaim(vm, { because: 'a snapshot is a copy, and this guest goes on' });
  await save(vm, path);
  const newer = machine({ empty: true });
  await restore(newer, path);
  expect(vm.memory.equals(newer.memory)).toBe(true);
});

test('a guest that its user had paused stays paused, where it was saved and where it is restored', async () => {
  const path = newPath();
  const vm = fill(machine());
  await vm.pause();
  await save(vm, path);
  expect([vm.running, vm.resumes]).toEqual([false, 0]);
  const copy = machine({ empty: true });
  const { summary } = await restore(copy, path);
  expect([copy.running, copy.resumes, summary.rounds]).toEqual([false, 0, 1]);
  expect(vm.memory.equals(copy.memory)).toBe(true);
});

test('a save that is only asked about leaves nothing, and the guest as it was', async () => {
  const path = newPath();
  writeFileSync(path, 'an older snapshot');
  const vm = fill(machine());
  await save(vm, path, { dryRun: true });
  expect([readFileSync(path, 'utf8'), partials(folder)]).toEqual(['an older snapshot', []]);
  expect([vm.running, vm.pauses]).toEqual([true, 0]);
  await expect(save(vm, join(folder, 'no', 'such'), { dryRun: true })).rejects.toMatchObject({
    code: 'GODWIT_CONNECT_FAILED',
  });
});

test("guest memory is nobody else's: the file can be read by its owner only", async () => {
  const path = newPath();
  await save(fill(machine()), path);
  expect(statSync(path).mode & 0o777).toBe(0o600);
});

test('a listener gives its file once, and then waits', async () => {
  const path = newPath();
  await save(fill(machine()), path);
  const links = await listenOn(transportFromUri(`file:${path}`));
  expect(links.address).toBe(`file:${path}`);
  await receive(links, { prepare: () => machine({ empty: true }) }).result;
  const second = receive(links, { prepare: () => machine({ empty: true }) });
  await new Promise(setImmediate);
  expect(second.state).toBe('none');
  await links.close();
  await expect(second.result).rejects.toMatchObject({ code: 'GODWIT_INVALID_STATE' });
  await expect(receive(links, { prepare: () => machine({ empty: true }) }).result).rejects.toMatchObject({
    code: 'GODWIT_INVALID_STATE',
  });
});

test('a file is no stream of bytes, and says so', async () => {
  const transport = file({ path: newPath() });
  await expect(transport.connect()).rejects.toMatchObject({ code: 'GODWIT_UNSUPPORTED' });
  await expect(transport.listen()).rejects.toThrow(/give it to connectTo or listenOn/);
  expect(() => file({ path: '' })).toThrow(/needs the path of a file/);
});

test('pages have fixed places, so delta and compression are refused, or done without where that is asked for', async () => {
  const vm = fill(machine());
  const path = newPath();
  await expect(save(vm, path, { encodings: [delta()] })).rejects.toMatchObject({ code: 'GODWIT_UNSUPPORTED' });
  expect([existsSync(path), vm.running, partials(folder)]).toEqual([false, true, []]);
  await save(vm, path, { encodings: [delta()], missingEncoding: 'warn' });
  const copy = machine({ empty: true });
  await restore(copy, path);
  expect(vm.memory.equals(copy.memory)).toBe(true);
});

describe('before "go" nothing bears the name, and the guest stays', () => {
  async function expectStays(path: string, run: (path: string) => Promise<unknown>, code: string): Promise<void> {
    for (const older of [undefined, 'an older snapshot']) {
      if (older !== undefined) writeFileSync(path, older);
      await expect(run(path)).rejects.toMatchObject({ code });
      expect(existsSync(path) ? readFileSync(path, 'utf8') : undefined).toBe(older);
      expect(partials(folder)).toEqual([]);
    }
  }

  test('when it is cancelled with the guest paused', async () => {
    const vm = fill(machine());
    const run = (path: string) => {
      const migration = saving(vm, path, { pauseBeforeSwitchover: true, pageChannels: 2 });
      migration.subscribe({
        next: (event) => event.type === 'state' && event.state === 'pre-switchover' && migration.cancel(),
        error: () => {},
      });
      return migration.result;
    };
    await expectStays(newPath(), run, 'GODWIT_CANCELLED');
    expect(vm.running).toBe(true);
  });

  test.each(['hello', 'pages', 'roundEnd', 'device', 'switchover', 'digests'])(
    'when it is cancelled at %p',
    async (type) => {
      const vm = fill(machine());
      const run = (path: string) => {
        const connector = atFrame(connectTo(file({ path })), type, () => void migration.cancel());
        const migration = migrate(vm, connector, { verify: true });
        return migration.result;
      };
      await expectStays(newPath(), run, 'GODWIT_CANCELLED');
      expect(vm.running).toBe(true);
    },
  );

  test('when a device fails to save', async () => {
    const vm = fill(machine());
    const failing = (path: string) => {
      vm.devices = [new FaultyDevice('vcpu', new Uint8Array(10), { failSave: 1 })];
      return save(vm, path);
    };
    await expectStays(newPath(), failing, 'GODWIT_DEVICE_FAILED');
    expect(vm.running).toBe(true);
  });

  test('when the temporary file is lost', async () => {
    const vm = fill(machine());
    const lose = () => {
      for (const name of partials(folder)) rmSync(join(folder, name));
    };
    const run = (path: string) => migrate(vm, atFrame(connectTo(file({ path })), 'switchover', lose)).result;
    await expectStays(newPath(), run, 'GODWIT_SYSCALL');
    expect(vm.running).toBe(true);
  });

  test('when what was written is not what memory holds: a tracker missed a write', async () => {
    const vm = fill(machine());
    const run = (path: string) => {
      const forget = () => vm.memory.write(0, 5 * PAGE, pageOf(Math.random() * 2 ** 31));
      return migrate(vm, atFrame(connectTo(file({ path })), 'switchover', forget), { verify: true }).result;
    };
    await expectStays(newPath(), run, 'GODWIT_VERIFY_FAILED');
    expect(vm.running).toBe(true);
  });

  /** Page 1 of the first block, as it stands in the temporary file. */
  function spoilFile(contents: Uint8Array): void {
    const [name] = partials(folder);
    const bytes = readFileSync(join(folder, name as string));
    bytes.set(contents, 2 ** 20 + PAGE);
    writeFileSync(join(folder, name as string), bytes);
  }

  test.each([
    ['the file does not hold what was written to it', (_vm: ToyVm, page: Uint8Array) => spoilFile(page)],
    [
      'the digest is not that of the page in the file, though that is right: it could never be restored',
      (vm: ToyVm, page: Uint8Array) => {
        spoilFile(page);
        vm.memory.write(0, PAGE, page);
      },
    ],
  ])('when %s', async (_, spoil) => {
    const vm = fill(machine());
    const path = newPath();
    const connector = atFrame(connectTo(file({ path })), 'switchover', () => spoil(vm, pageOf(777)));
    await expect(migrate(vm, connector, { verify: true }).result).rejects.toMatchObject({
      code: 'GODWIT_VERIFY_FAILED',
      message: expect.stringContaining('ram-low:1)'),
    });
    expect([existsSync(path), vm.running, partials(folder)]).toEqual([false, true, []]);
  });

  test('when a dirty tracker fails at the last moment', async () => {
    const vm = fill(machine());
    vm.trackers = [new FaultyTracker(vm.software, vm.memory, { failHarvest: 4 })];
    const path = newPath();
    await expect(save(vm, path)).rejects.toMatchObject({ code: 'GODWIT_TRACKER_FAILED' });
    expect([existsSync(path), vm.running, partials(folder)]).toEqual([false, true, []]);
  });

  test.each([
    ['a folder that does not exist', (path: string) => join(path, 'no', 'such'), () => {}, /no such file or directory/],
    ['a directory', (path: string) => path, (path: string) => mkdirSync(path), /that is a directory/],
    ['a symbolic link', (path: string) => path, (path: string) => symlinkSync('x', path), /a symbolic link/],
    ['a device node', () => '/dev/null', () => {}, /no regular file/],
  ])('when it would go to %s', async (_, target, make, message) => {
    const path = newPath();
    make(path);
    const vm = fill(machine());
    await expect(save(vm, target(path))).rejects.toMatchObject({
      code: 'GODWIT_CONNECT_FAILED',
      retry: false,
      message: expect.stringMatching(message),
    });
    expect([vm.running, vm.pauses]).toEqual([true, 0]);
  });
});

describe('after "go" the source never resumes, and the file is the guest', () => {
  test('when it cannot get its name, it stays whole under the temporary one', async () => {
    const vm = fill(machine());
    const path = newPath();
    const migration = migrate(
      vm,
      atFrame(connectTo(file({ path })), 'go', () => mkdirSync(path)),
      {
        pageChannels: 1,
      },
    );
    await expect(migration.result).rejects.toMatchObject({
      code: 'GODWIT_OWNERSHIP_UNKNOWN',
      message: expect.stringContaining('it is whole, in '),
    });
    expect([vm.running, vm.resumes]).toEqual([false, 0]);
    const [partial] = partials(folder);
    const copy = machine({ empty: true });
    await restore(copy, join(folder, partial as string));
    expect(vm.memory.equals(copy.memory)).toBe(true);
    rmSync(path, { recursive: true });
    // The next save leaves it alone: it may be all that there is of a guest.
    await save(fill(machine()), path);
    expect(partials(folder)).toEqual([partial]);
    rmSync(join(folder, partial as string));
  });

  test('cancel comes too late, and the snapshot is there', async () => {
    const vm = fill(machine());
    const path = newPath();
    const accepted: boolean[] = [];
    const late = () => {
      accepted.push(migration.cancel());
    };
    const migration = migrate(vm, atFrame(connectTo(file({ path })), 'go', late));
    await migration.result;
    expect(accepted).toEqual([false]);
    await restore(machine({ empty: true }), path);
  });
});

test('no descriptor is left open, after success and failure', async () => {
  const path = newPath();
  const open = (): string[] => readdirSync('/proc/self/fd');
  await save(fill(machine()), path);
  const count = open().length;
  for (let i = 0; i < 3; i++) {
    await save(fill(machine()), path, { pageChannels: 2 });
    await restore(machine({ empty: true }), path, { pageChannels: 2 });
    await expect(restore(machine({ empty: true, blocks: [] }), path)).rejects.toMatchObject({
      code: 'GODWIT_MEMORY_MISMATCH',
    });
    await expect(restore(machine({ empty: true }), dirname(path))).rejects.toMatchObject({ code: 'GODWIT_BAD_STREAM' });
    const cancelled = saving(fill(machine()), path, { pageChannels: 2 });
    cancelled.subscribe({ next: (event) => event.type === 'round' && cancelled.cancel(), error: () => {} });
    await expect(cancelled.result).rejects.toMatchObject({ code: 'GODWIT_CANCELLED' });
  }
  expect(open()).toHaveLength(count);
});
