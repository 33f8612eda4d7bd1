import {
  type ErrorCode,
  type Frame,
  type FrameStream,
  type LinkConnector,
  type MigratableDevice,
  type MigratableVm,
  type MigrateOptions,
  migrate,
  receive,
} from '@godwit/core';
import { type MachineDescription, parseDescription, type VirtualMachine } from '@godwit/example-node-vmm';
import { type BlockPlacement, createGuestMemory } from '@godwit/linux';
import { connectTo, listenOn, tcp } from '@godwit/transport';
import { afterAll, beforeAll, describe, expect, jest, test } from '@jest/globals';
import { failureOf, LiveGuest } from './bad-input-guest.js';

jest.setTimeout(60_000);

let guest: LiveGuest;

beforeAll(async () => {
  guest = await LiveGuest.boot();
});

afterAll(() => guest?.close());

type Prepare = (description: unknown) => Promise<MigratableVm>;

interface Refusal {
  readonly prepare?: Prepare;
  readonly connector?: (connector: LinkConnector) => LinkConnector;
  readonly options?: MigrateOptions;
}

/**
 * Moves the guest to a destination that does not fit: both sides must fail for the same reason, and the guest must stay
 * where it is.
 */
async function expectRefused(code: ErrorCode, message: RegExp, by: 'source' | 'destination', refusal: Refusal) {
  const links = await listenOn(tcp({ port: 0 }));
  const prepare = refusal.prepare ?? (() => guest.blank());
  let prepared: MigratableVm | undefined;
  let abandoned = false;
  try {
    const incoming = receive(links, {
      prepare: async (description) => {
        const vm = await prepare(description);
        prepared = vm;
        return replaced(vm, {
          abandon: async (reason) => {
            abandoned = true;
            await vm.abandon?.(reason);
          },
        });
      },
    });
    const connector = connectTo(tcp({ port: links.listener.port }));
    const migration = migrate(guest.vm, refusal.connector?.(connector) ?? connector, {
      description: guest.vm.description,
      ...refusal.options,
    });
    const [source, destination] = await Promise.all([failureOf(migration.result), failureOf(incoming.result)]);
    expect({ source: source.code, destination: destination.code }).toEqual({ source: code, destination: code });
    expect({ source: source.remote, destination: destination.remote }).toEqual({
      source: by === 'destination',
      destination: by === 'source',
    });
    expect(source.message).toMatch(message);
    expect(destination.message).toMatch(message);
    expect(migration.state).toBe('failed');
    expect(abandoned).toBe(prepared !== undefined);
    await guest.runsOn();
  } finally {
    await links.close();
  }
}

/** The same VM with some of its properties replaced. */
function replaced(vm: MigratableVm, changes: Partial<MigratableVm>): MigratableVm {
  return {
    memory: vm.memory,
    trackers: vm.trackers,
    devices: vm.devices,
    pause: () => vm.pause(),
    resume: () => vm.resume(),
    abandon: async (reason) => vm.abandon?.(reason),
    ...changes,
  };
}

/** A machine for the guest, but with RAM of another kind. */
async function otherRam(change: (block: BlockPlacement) => BlockPlacement, pageSize = 4096): Promise<MigratableVm> {
  const machine = await guest.blank();
  const memory = createGuestMemory({ pageSize, blocks: machine.memory.blocks.map(change) });
  return replaced(machine, {
    memory,
    abandon: async () => {
      memory.close();
      await machine.close();
    },
  });
}

describe('other RAM at the destination', () => {
  const asked = () => guest.vm.description;

  test('another size', () =>
    expectRefused(
      'GODWIT_MEMORY_MISMATCH',
      /"ram-low" with 33554432 bytes at 0x0 at the source, but "ram-low" with 67108864 bytes at 0x0 at the destination/,
      'destination',
      { prepare: () => guest.blank({ ...asked(), memoryBytes: 2 * asked().memoryBytes }) },
    ));

  test('another address', () =>
    expectRefused(
      'GODWIT_MEMORY_MISMATCH',
      /33554432 bytes at 0x0 at the source, but "ram-low" with 33554432 bytes at 0x100000 at the destination/,
      'destination',
      { prepare: () => otherRam(({ id, byteLength }) => ({ id, byteLength, guestPhysicalAddress: 0x100000 })) },
    ));

  test('another name', () =>
    expectRefused('GODWIT_MEMORY_MISMATCH', /block 0 is "ram-low" .*, but "dram" with 33554432/, 'destination', {
      prepare: () =>
        otherRam(({ guestPhysicalAddress, byteLength }) => ({ id: 'dram', guestPhysicalAddress, byteLength })),
    }));

  test('another number of blocks', () =>
    expectRefused(
      'GODWIT_MEMORY_MISMATCH',
      /the source has RAM blocks ram-low; the destination has ram-low, ram-high/,
      'destination',
      { prepare: () => guest.blank({ ...asked(), memoryBytes: 6 * 2 ** 30 }) },
    ));

  test('another page size', () =>
    expectRefused(
      'GODWIT_PAGE_SIZE_MISMATCH',
      /the source's pages have 4096 bytes, the destination's 8192/,
      'destination',
      { prepare: () => otherRam((block) => block, 8192) },
    ));
});

describe('other devices at the destination', () => {
  /** The machine with one of its devices changed or removed. */
  async function otherDevice(change: (device: MigratableDevice) => MigratableDevice | undefined) {
    const machine = await guest.blank();
    const [first, ...others] = machine.devices as readonly [MigratableDevice, ...MigratableDevice[]];
    const changed = change(first);
    return replaced(machine, { devices: changed === undefined ? others : [changed, ...others] });
  }

  const versioned = (device: MigratableDevice, version: number, minimumVersion: number): MigratableDevice => ({
    id: device.id,
    version,
    minimumVersion,
    save: () => device.save(),
    load: (state, loaded) => device.load(state, loaded),
  });

  const FIRST = /device "[a-z-]+"/;

  test('one is missing', () =>
    expectRefused(
      'GODWIT_DEVICE_MISMATCH',
      new RegExp(`the source has a ${FIRST.source} that the destination lacks`),
      'destination',
      { prepare: () => otherDevice(() => undefined) },
    ));

  test('one is too many', async () => {
    const extra: MigratableDevice = { id: 'gpu', version: 1, async *save() {}, load: async () => {} };
    await expectRefused(
      'GODWIT_DEVICE_MISMATCH',
      /the destination has a device "gpu" that the source lacks/,
      'destination',
      { prepare: () => guest.blank().then((vm) => replaced(vm, { devices: [...vm.devices, extra] })) },
    );
  });

  test('the source saves a version that is too new', () =>
    expectRefused(
      'GODWIT_DEVICE_MISMATCH',
      /the source saves version \d+, the destination loads versions -1 to 0$/,
      'destination',
      { prepare: () => otherDevice((device) => versioned(device, 0, -1)) },
    ));

  test('the source saves a version that is too old', () =>
    expectRefused(
      'GODWIT_DEVICE_MISMATCH',
      /the source saves version \d+, the destination loads versions 98 to 99$/,
      'destination',
      { prepare: () => otherDevice((device) => versioned(device, 99, 98)) },
    ));

  test('another number of vCPUs', async () => {
    const { kind, vcpus } = guest.vm.description;
    // A software machine is one device, whatever the number of its vCPUs, and refuses the state when it loads it.
    const code = kind === 'kvm' ? 'GODWIT_DEVICE_MISMATCH' : 'GODWIT_DEVICE_FAILED';
    await expectRefused(code, kind === 'kvm' ? /"vcpu.?2" that the source lacks/ : /vcpu/i, 'destination', {
      prepare: () => guest.blank({ ...guest.vm.description, vcpus: vcpus + 1 }),
    });
  });
});

describe('a destination that cannot build the machine', () => {
  test('memory that does not fit', () =>
    expectRefused(
      'GODWIT_OUT_OF_MEMORY',
      /guest memory of 33554432 MiB can never fit the host's \d+ MiB of RAM and swap; use a smaller guest/,
      'destination',
      {
        prepare: async () => {
          const blocks = [{ id: 'ram-low', guestPhysicalAddress: 0, byteLength: 2 ** 45 }];
          throw new Error(`it fits: ${createGuestMemory({ blocks }).blocks.length}`);
        },
      },
    ));

  test('a description that it does not understand', () =>
    expectRefused('GODWIT_INVALID_ARGUMENT', /a machine's description is .*, got \{"colour":"blue"\}/, 'destination', {
      prepare: (description) => guest.blank(description),
      options: { description: { colour: 'blue' } },
    }));

  test('a machine of another kind', () =>
    expectRefused('GODWIT_INVALID_ARGUMENT', /description is \{ kind: '\w+', .*got \{"kind":"abacus"/, 'destination', {
      prepare: async (description) => {
        parseDescription(description, guest.vm.description.kind);
        return guest.blank(description);
      },
      options: { description: { ...guest.vm.description, kind: 'abacus' as MachineDescription['kind'] } },
    }));

  test('some error of its own', () =>
    expectRefused('GODWIT_PREPARE_FAILED', /could not build the VM: the rack is full/, 'destination', {
      prepare: () => Promise.reject(new Error('the rack is full')),
    }));
});

describe('a source that goes wrong', () => {
  /** Changes frames on their way from the engine to the wire. */
  const changing =
    (change: (frame: Frame) => Frame) =>
    (connector: LinkConnector): LinkConnector => ({
      connect: async (request, signal) => {
        const link = await connector.connect(request, signal);
        return { ...link, control: changed(link.control, change) };
      },
    });

  function changed(stream: FrameStream, change: (frame: Frame) => Frame): FrameStream {
    return {
      get bytesWritten() {
        return stream.bytesWritten;
      },
      get bytesRead() {
        return stream.bytesRead;
      },
      write: (frame, payload) => stream.write(change(frame), payload),
      read: () => stream.read(),
      readPayload: (into) => stream.readPayload(into),
      skipPayload: () => stream.skipPayload(),
      close: () => stream.close(),
      abort: (reason) => stream.abort(reason),
    };
  }

  test('a protocol version that is too new', () =>
    expectRefused(
      'GODWIT_VERSION_MISMATCH',
      /speaks protocol versions 3 to 4, this destination .* 2 to 2/,
      'destination',
      {
        connector: changing((frame) =>
          frame.type === 'hello' ? { ...frame, minimumVersion: 3, maximumVersion: 4 } : frame,
        ),
      },
    ));

  test('a frame out of range', () =>
    expectRefused(
      'GODWIT_OUT_OF_RANGE',
      /a "pages" frame names pages \d+ to \d+ of RAM block "ram-low", which has 8192/,
      'destination',
      {
        connector: changing((frame) =>
          frame.type === 'pages'
            ? { ...frame, runs: frame.runs.map((number, i) => (i % 2 === 0 ? number + 8192 : number)) }
            : frame,
        ),
      },
    ));

  test('a block that does not exist', () =>
    expectRefused('GODWIT_OUT_OF_RANGE', /a "pages" frame names RAM block 7; there are 1/, 'destination', {
      connector: changing((frame) => (frame.type === 'pages' ? { ...frame, block: 7 } : frame)),
    }));

  test('pages that are called by other pages’ numbers are found before the guest is handed over', () =>
    expectRefused('GODWIT_VERIFY_FAILED', /differ/, 'source', {
      options: { verify: true },
      connector: changing((frame) => {
        if (frame.type !== 'pages') return frame;
        const [first = 0, count = 0, ...rest] = frame.runs;
        // The whole first run begins one page earlier, if that page is free.
        return first > 0 ? { ...frame, runs: [first - 1, count, ...rest] } : frame;
      }),
    }));
});

test('after all that the very same guest moves, verified', async () => {
  const machine: VirtualMachine = guest.vm;
  const links = await listenOn(tcp({ port: 0 }));
  await guest.move(links);
  expect(machine.state).toBe('closed');
  await links.close();
});
