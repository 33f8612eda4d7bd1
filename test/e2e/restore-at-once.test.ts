import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type IncomingEvent, type IncomingMigration, type MigratableVm, migrate, receive } from '@godwit/core';
import { Machine, type MachineConfig, SoftwareMachine, type VirtualMachine } from '@godwit/example-node-vmm';
import { connectTo, file, listenOn } from '@godwit/transport';
import { type FaultThreads, faultThreads } from '@godwit/workers';
import { afterEach, beforeEach, expect, jest, test } from '@jest/globals';
import { forBothGuests, forKvm } from './guest-kinds.js';
import { GuestListener, type HeardSoFar, inspectGuest } from './guest-listener.js';

jest.setTimeout(180_000);

const MIB = 2 ** 20;
/** Memory that the guest does not use, filled with bytes, so that loading it takes some time. */
const MORE = { address: 64 * MIB, byteLength: 160 * MIB } as const;
const CONFIG: MachineConfig = {
  memoryBytes: 224 * MIB,
  vcpus: 2,
  workload: { workingSetBytes: 16 * MIB, pagesPerSecond: 5000, order: 'random', console: 'serial' },
};

let folder: string;
let path: string;
let faults: FaultThreads;
const machines: VirtualMachine[] = [];

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'godwit-at-once-'));
  path = join(folder, 'guest.snap');
  faults = faultThreads();
});

afterEach(async () => {
  await Promise.all(machines.splice(0).map((machine) => machine.close()));
  await faults.close();
  rmSync(folder, { recursive: true, force: true });
});

type Kind = typeof Machine | typeof SoftwareMachine;

/** Saves a guest that has run for a while; the guest stays paused at its source. */
async function saved(kind: Kind, config = CONFIG): Promise<{ source: VirtualMachine; heard: HeardSoFar }> {
  const source = await kind.create(config);
  machines.push(source);
  const guest = new GuestListener();
  guest.follow(source);
  await source.resume();
  await guest.moreBeats(3);
  await source.pause();
  for (let at = 0; at < MORE.byteLength; at += MIB) source.ram.view(MORE.address + at, MIB).fill(1 + (at / MIB) * 3);
  await source.resume();
  await migrate(source, connectTo(file({ path })), { description: source.description }).result;
  expect(guest.problems).toEqual([]);
  return { source, heard: guest.heard };
}

interface Restoring {
  readonly machine: VirtualMachine;
  readonly guest: GuestListener;
  readonly incoming: IncomingMigration;
  readonly events: IncomingEvent[];
  readonly running: Promise<void>;
}

/** Restores the guest at once; `before` gets the machine before anything is loaded. */
async function restoring(
  kind: Kind,
  { description }: VirtualMachine,
  heard: HeardSoFar,
  before: (machine: VirtualMachine) => Partial<MigratableVm> = () => ({}),
): Promise<Restoring> {
  const machine = await kind.fromDescription(description);
  machines.push(machine);
  // A machine that is ready: its threads have started.
  await (machine as Machine).prepared?.();
  await faults.ready();
  const guest = new GuestListener(heard);
  guest.follow(machine);
  const links = await listenOn(file({ path }));
  const vm: MigratableVm = {
    memory: machine.memory,
    trackers: machine.trackers,
    devices: machine.devices,
    pause: () => machine.pause(),
    resume: () => machine.resume(),
    abandon: (reason) => machine.abandon(reason),
    ...before(machine),
  };
  const incoming = receive(links, { prepare: () => vm, run: 'at once', faults, progressIntervalMs: 5 });
  const events: IncomingEvent[] = [];
  const running = new Promise<void>((resolve) => {
    incoming.subscribe((event) => {
      events.push(event);
      if (event.type === 'running' || event.type === 'failed') resolve();
    });
  });
  return { machine, guest, incoming, events, running };
}

async function expectAlive({ machine, guest }: Pick<Restoring, 'machine' | 'guest'>): Promise<void> {
  await guest.moreBeats(5);
  await machine.pause();
  const { defects, pages } = inspectGuest(machine);
  expect({ defects, problems: guest.problems }).toEqual({ defects: [], problems: [] });
  expect(pages).toBe((16 * MIB) / 4096);
}

forBothGuests((_options, kindName) => {
  const kind: Kind = kindName === 'kvm' ? Machine : SoftwareMachine;

  test('the guest runs before its memory is there, and its own checks hold when it is', async () => {
    const { source, heard } = await saved(kind);
    const { machine, guest, incoming, events, running } = await restoring(kind, source, heard);
    await running;
    const missing = incoming.status().faults?.pagesMissing ?? 0;
    expect(incoming.state).toBe('postcopy-active');
    expect(missing).toBeGreaterThan(0);
    const { summary } = await incoming.result;
    expect(summary).toMatchObject({ verified: true, runState: 'running', rounds: 1 });
    const { faults: seen } = summary;
    expect(seen).toMatchObject({ pagesMissing: 0, pagesLost: 0 });
    expect(seen?.faults).toBeGreaterThan(0);
    expect(seen?.latencyDistribution.reduce((sum, count) => sum + count, 0)).toBe(seen?.faults);
    const states = events.flatMap((event) => (event.type === 'state' ? [event.state] : []));
    expect(states).toEqual(['setup', 'active', 'device', 'postcopy-active', 'completed']);
    expect(events.filter(({ type }) => type === 'faults').length).toBeGreaterThan(0);
    await expectAlive({ machine, guest });
  });

  test('paused at its arrival, it has every byte that was saved', async () => {
    const { source } = await saved(kind);
    const machine = await kind.fromDescription(source.description);
    machines.push(machine);
    const links = await listenOn(file({ path }));
    const incoming = receive(links, { prepare: () => machine, run: 'at once', faults, onArrival: 'pause' });
    await incoming.result;
    for (const [i, block] of source.memory.blocks.entries()) {
      const [a, b] = [block, machine.memory.blocks[i]].map((one) => one?.view(0, block.byteLength) as Uint8Array);
      expect(Buffer.compare(a as Uint8Array, b as Uint8Array)).toBe(0);
    }
    // A restored guest can be saved again: nothing of the restore still uses its memory.
    await machine.resume();
    await migrate(machine, connectTo(file({ path: join(folder, 'again.snap') })), {
      description: machine.description,
      verify: true,
    }).result;
  });

  test('memory that is pinned is refused before anything runs, with the reason', async () => {
    const { source, heard } = await saved(kind);
    const { incoming, running } = await restoring(kind, source, heard, ({ memory }) => {
      memory.blocks[0]?.pin?.({ firstPage: 3, pageCount: 1 });
      return {};
    });
    await running;
    await expect(incoming.result).rejects.toMatchObject({
      code: 'GODWIT_BLOCKED',
      message: expect.stringContaining('"ram-low" has pages that are pinned for a device'),
    });
  });
});

forKvm(() => {
  test('a page that is damaged stops the guest that needs it, which reads no zeros, and everything ends', async () => {
    const { source, heard } = await saved(Machine);
    const bytes = readFileSync(path);
    // All pages of the working set, so that the guest soon needs one of them.
    const at = bytes.findIndex((byte, index) => index > 8 * MIB && byte !== 0);
    for (let i = at; i < bytes.length - MORE.byteLength - 2 * MIB; i += 4096) bytes[i] = (bytes[i] as number) ^ 0x10;
    writeFileSync(path, bytes);
    const { machine, guest, incoming, running } = await restoring(Machine, source, heard);
    await running;
    const error = await incoming.result.catch((reason: unknown) => reason);
    expect(error).toMatchObject({
      code: 'GODWIT_PAGES_MISSING',
      message: expect.stringMatching(
        /\d+ of \d+ pages of the guest are missing.*page \d+ of "ram-low".*does not match its checksum/,
      ),
    });
    // A vCPU that has waited for one of these pages may have ended with an error of KVM_RUN, without reading anything.
    expect(['paused', 'crashed']).toContain(machine.state);
    expect([incoming.state, incoming.ownership]).toEqual(['failed', 'stranded']);
    expect(guest.problems.filter((problem) => !problem.includes('cannot go on'))).toEqual([]);
    const began = performance.now();
    await machine.close();
    expect(performance.now() - began).toBeLessThan(10_000);
  });

  test('it can be given up in the middle: the guest is paused where it is, and can be closed', async () => {
    const { source, heard } = await saved(Machine);
    const { machine, guest, incoming, running } = await restoring(Machine, source, heard);
    expect(incoming.giveUpPages()).toBe(false);
    await running;
    expect(incoming.giveUpPages('no longer wanted')).toBe(true);
    await expect(incoming.result).rejects.toMatchObject({
      code: 'GODWIT_PAGES_MISSING',
      message: expect.stringContaining('no longer wanted'),
    });
    expect(machine.state).toBe('paused');
    expect(guest.problems).toEqual([]);
    await machine.close();
  });

  test('a machine whose resume fails gives everything back', async () => {
    const { source, heard } = await saved(Machine);
    const { machine, incoming, running } = await restoring(Machine, source, heard, () => ({
      resume: () => Promise.reject(new Error('no')),
    }));
    await running;
    await expect(incoming.result).rejects.toMatchObject({ code: 'GODWIT_VM_FAILED' });
    await machine.close();
  });

  test('a device whose DMA cannot wait is named', async () => {
    const { source, heard } = await saved(Machine);
    const { incoming, running } = await restoring(Machine, source, heard, ({ devices }) => ({
      devices: devices.map((device) =>
        device.id === 'chipset' ? Object.assign(device, { wholeMemory: 'its DMA cannot wait' }) : device,
      ),
    }));
    await running;
    await expect(incoming.result).rejects.toMatchObject({
      code: 'GODWIT_BLOCKED',
      message: expect.stringContaining('device "chipset": its DMA cannot wait'),
    });
  });
});
