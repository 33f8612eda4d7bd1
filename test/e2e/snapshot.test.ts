import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type MigratableVm, migrate, receive, roundCap } from '@godwit/core';
import { Machine, type MachineConfig, SoftwareMachine, type VirtualMachine } from '@godwit/example-node-vmm';
import { connectTo, file, listenOn } from '@godwit/transport';
import { afterEach, beforeEach, expect, jest, test } from '@jest/globals';
import { forBothGuests } from './guest-kinds.js';
import { GuestListener, type HeardSoFar, inspectGuest, textAsPicture } from './guest-listener.js';

jest.setTimeout(180_000);

const MIB = 2 ** 20;
const CONFIG: MachineConfig = {
  memoryBytes: 64 * MIB,
  vcpus: 2,
  workload: { workingSetBytes: 16 * MIB, pagesPerSecond: 5000, order: 'random', console: 'serial' },
};

let folder: string;
let path: string;
const machines: VirtualMachine[] = [];

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'godwit-snapshot-'));
  path = join(folder, 'guest.snap');
});

afterEach(async () => {
  await Promise.all(machines.splice(0).map((machine) => machine.close()));
  rmSync(folder, { recursive: true, force: true });
});

interface Restored {
  readonly machine: VirtualMachine;
  readonly guest: GuestListener;
  readonly verified: boolean;
}

/** Restores the snapshot; `compare` gets the machine when everything is loaded and the guest has not run yet. */
async function restore(
  kind: typeof Machine | typeof SoftwareMachine,
  options: { readonly heard: HeardSoFar; readonly pageChannels?: number },
  compare: (machine: VirtualMachine) => void,
): Promise<Restored> {
  const guest = new GuestListener(options.heard);
  const links = await listenOn(file({ path, verify: true, pageChannels: options.pageChannels }));
  let machine: VirtualMachine | undefined;
  const { summary } = await receive(links, {
    prepare: async (description): Promise<MigratableVm> => {
      const made = await kind.fromDescription(description);
      machines.push(made);
      guest.follow(made);
      machine = made;
      return {
        memory: made.memory,
        trackers: made.trackers,
        devices: made.devices,
        pause: () => made.pause(),
        async resume() {
          compare(made);
          await made.resume();
        },
        abandon: (reason) => made.abandon(reason),
      };
    },
  }).result;
  await links.close();
  return { machine: machine as VirtualMachine, guest, verified: summary.verified };
}

/** Checks that the guest goes on where it was, and that both the guest and the test find its memory right. */
async function expectAlive({ machine, guest }: Pick<Restored, 'machine' | 'guest'>): Promise<void> {
  await guest.moreBeats(5);
  await machine.pause();
  const { defects, pages } = inspectGuest(machine);
  expect({ defects, problems: guest.problems }).toEqual({ defects: [], problems: [] });
  expect(pages).toBe((16 * MIB) / 4096);
}

forBothGuests((_options, kindName) => {
  const kind = kindName === 'kvm' ? Machine : SoftwareMachine;

  test.each([0, 1, 2, 8])(
    'saved live over %i page channels, every byte of RAM comes back, and both copies go on',
    async (pageChannels) => {
      const source = await kind.create(CONFIG);
      machines.push(source);
      const guest = new GuestListener();
      guest.follow(source);
      await source.resume();
      await guest.moreBeats(3);
      const summary = await migrate(source, connectTo(file({ path })), {
        description: source.description,
        pageChannels,
        verify: true,
        policy: roundCap(3, 'switchover'),
      }).result;
      expect([summary.verified, source.state, readdirSync(folder)]).toEqual([true, 'paused', ['guest.snap']]);
      expect(statSync(path).blocks * 512).toBeLessThan(32 * MIB);

      let compared = 0;
      const restored = await restore(kind, { heard: guest.heard, pageChannels }, (machine) => {
        for (const [i, block] of source.memory.blocks.entries()) {
          const [a, b] = [block, machine.memory.blocks[i]].map((one) => one?.view(0, block.byteLength) as Uint8Array);
          expect(Buffer.compare(a as Uint8Array, b as Uint8Array)).toBe(0);
          compared += block.byteLength;
        }
      });
      expect([restored.verified, compared]).toEqual([true, CONFIG.memoryBytes]);
      // A live snapshot: its own machine goes on too.
      await source.resume();
      await Promise.all([expectAlive(restored), expectAlive({ machine: source, guest })]);
    },
  );

  test('a guest outlives its process: saved by one, restored by another', async () => {
    const script = join(import.meta.dirname, 'snapshot-source.js');
    const saved = spawnSync(process.execPath, [script, `file:${path}`, kindName], {
      encoding: 'utf8',
      timeout: 120_000,
    });
    expect([saved.status, saved.stderr]).toEqual([0, '']);
    const { sums, heard, ...rest } = JSON.parse(saved.stdout, textAsPicture) as {
      readonly sums: readonly string[];
      readonly heard: HeardSoFar;
    };
    expect(rest).toEqual({ verified: true, rounds: 5, problems: [] });
    const restored = await restore(kind, { heard }, ({ memory }) => {
      const found = memory.blocks.map((block) =>
        createHash('sha256').update(block.view(0, block.byteLength)).digest('hex'),
      );
      expect(found).toEqual(sums);
    });
    await expectAlive(restored);
  });

  test('a snapshot with one flipped bit starts no guest', async () => {
    const source = await kind.create(CONFIG);
    machines.push(source);
    const guest = new GuestListener();
    guest.follow(source);
    await source.resume();
    await guest.moreBeats(2);
    await migrate(source, connectTo(file({ path })), { description: source.description }).result;
    const bytes = readFileSync(path);
    // In the middle of the file: the guest's working set.
    const at = bytes.findIndex((byte, index) => index > 8 * MIB && byte !== 0);
    bytes[at] = (bytes[at] as number) ^ 0x10;
    writeFileSync(path, bytes);
    const compare = jest.fn();
    await expect(restore(kind, { heard: guest.heard }, compare)).rejects.toMatchObject({
      code: 'GODWIT_BAD_STREAM',
      message: expect.stringMatching(/page \d+ of RAM block "ram-low" does not match its checksum/),
    });
    expect([compare.mock.calls.length, machines.at(-1)?.state]).toEqual([0, 'closed']);
  });
});
