import { spawnSync } from 'node:child_process';
import { createReadStream, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type ConvergencePolicy, delta, type MigratableVm, migrate, receive } from '@godwit/core';
import { Machine, type MachineConfig, SoftwareMachine, type VirtualMachine } from '@godwit/example-node-vmm';
import { GuestLineParser } from '@godwit/example-node-vmm/guest';
import { connectTo, LinkPhases, listenOn, readRecording, recordTo, tcp } from '@godwit/transport';
import { afterEach, beforeEach, describe, expect, jest, test } from '@jest/globals';
import { forBothGuests } from './guest-kinds.js';

jest.setTimeout(300_000);

const DECODER = join(import.meta.dirname, '..', '..', 'wire-format', 'rebuild-ram.py');
const MIB = 2 ** 20;
const WORKING_SET_PAGES = (8 * MIB) / 4096;
const CONFIG: MachineConfig = {
  memoryBytes: 32 * MIB,
  vcpus: 2,
  workload: { workingSetBytes: 8 * MIB, pagesPerSecond: 20_000, order: 'random', wholePages: true },
};

/** Debian's Python comes first: a Python in the PATH may not see Debian's modules. */
const PYTHON = ['/usr/bin/python3', 'python3'].find(
  (python) => spawnSync(python, ['-c', 'import msgpack']).status === 0,
);

function withPython(suite: (python: string, kind: 'kvm' | 'software') => void): void {
  if (PYTHON !== undefined) forBothGuests((_options, kind) => suite(PYTHON, kind));
  else describe.skip('(skipped: no msgpack for Python; Debian has it in python3-msgpack)', () => suite('', 'software'));
}

let folder: string;
const machines: VirtualMachine[] = [];

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'godwit-wire-'));
  mkdirSync(join(folder, 'ram'));
});

afterEach(async () => {
  await Promise.all(machines.splice(0).map((machine) => machine.close()));
  rmSync(folder, { recursive: true, force: true });
});

function kept(machine: VirtualMachine): VirtualMachine {
  machines.push(machine);
  return machine;
}

function copyOfRam({ memory }: VirtualMachine): Uint8Array[] {
  return memory.blocks.map((block) => Uint8Array.from(block.view(0, block.byteLength)));
}

function pagesWithContent(block: Uint8Array): number {
  const bytes = Buffer.from(block.buffer, block.byteOffset, block.byteLength);
  const zeros = Buffer.alloc(4096);
  let pages = 0;
  for (let at = 0; at < bytes.length; at += 4096) if (bytes.compare(zeros, 0, 4096, at, at + 4096) !== 0) pages++;
  return pages;
}

/** Runs the guest until it has written as many pages as its working set has pages. */
async function warmUp(machine: VirtualMachine): Promise<void> {
  const parser = new GuestLineParser();
  const written = new Promise<void>((resolve) => {
    machine.console.subscribe((text) => {
      for (const line of parser.push(text))
        if (line.type === 'heartbeat' && line.writes >= WORKING_SET_PAGES) resolve();
    });
  });
  await machine.resume();
  await written;
}

/** Frames of a recording that the protocol's table forbids. */
async function objectionsIn(path: string): Promise<string[]> {
  const links = new Map<number, LinkPhases>();
  const objections: string[] = [];
  for await (const item of readRecording(createReadStream(path))) {
    if (item.type !== 'frame' || item.track === undefined) continue;
    const { link, stream, sender } = item.track;
    const phases = links.get(link) ?? new LinkPhases();
    links.set(link, phases);
    const objection = phases.take(item.frame, sender, stream);
    if (objection !== undefined) objections.push(objection);
  }
  return objections;
}

/** So that pages are sent again. */
const threeRounds: ConvergencePolicy = ({ outcome }) => ({
  action: outcome.round < 3 ? 'continue' : 'switchover',
  reason: 'as planned',
});

test('the decoder is short', () => {
  expect(readFileSync(DECODER, 'utf8').trimEnd().split('\n').length).toBeLessThan(80);
});

withPython((python, kind) => {
  const kindOfMachine = kind === 'kvm' ? Machine : SoftwareMachine;

  test.each([
    { side: 'source', pageChannels: 0, encodings: [] },
    { side: 'source', pageChannels: 3, encodings: [delta()] },
    { side: 'destination', pageChannels: 2, encodings: [] },
  ])(
    'a decoder made from docs/wire-format.md rebuilds the RAM: $pageChannels page channels, recorded at the $side, encodings $encodings.length',
    async ({ side, pageChannels, encodings }) => {
      const path = join(folder, 'migration.godwit');
      const recording = await recordTo(path);
      const links = await listenOn(tcp({ port: 0 }));
      const connector = connectTo(tcp({ port: links.listener.port }));
      let received: Uint8Array[] = [];
      const incoming = receive(side === 'destination' ? recording.listener(links) : links, {
        prepare: async (description): Promise<MigratableVm> => {
          const vm = kept(await kindOfMachine.fromDescription(description));
          const resume = (): Promise<void> => {
            // The guest writes again as soon as it runs.
            received = copyOfRam(vm);
            return vm.resume();
          };
          return { memory: vm.memory, trackers: vm.trackers, devices: vm.devices, pause: () => vm.pause(), resume };
        },
      });
      const source = kept(await kindOfMachine.create(CONFIG));
      await warmUp(source);
      const migration = migrate(source, side === 'source' ? recording.connector(connector) : connector, {
        description: source.description,
        pageChannels,
        verify: true,
        encodings,
        adaptiveEncodings: false,
        policy: threeRounds,
      });
      const summary = await migration.result;
      await incoming.result;
      const { frames } = await recording.close();
      await links.close();

      expect(await objectionsIn(path)).toEqual([]);
      const { status, stdout, stderr } = spawnSync(python, [DECODER, path, join(folder, 'ram')], { encoding: 'utf8' });
      expect(stderr).toBe('');
      expect(status).toBe(0);
      const { raw, zero, hole, delta: deltas } = summary.pages;
      const kinds = [
        ...(raw > 0 ? [`5: ${raw}`] : []),
        ...(zero + hole > 0 ? [`6: ${zero + hole}`] : []),
        ...(deltas > 0 ? [`24: ${deltas}`] : []),
      ];
      const { length } = summary.rounds;
      expect(stdout).toBe(
        `${received.length} blocks, ${length} rounds, pages by type: {${kinds.join(', ')}}, handed over: True\n`,
      );
      expect([encodings.length > 0, deltas > 0]).toEqual([encodings.length > 0, encodings.length > 0]);
      expect(frames).toBeGreaterThan(summary.rounds.length * 2);
      const rebuilt = received.map((_, index) => readFileSync(join(folder, 'ram', String(index))));
      expect(rebuilt.map((block, index) => block.equals(received[index] as Uint8Array))).toEqual(
        received.map(() => true),
      );
      expect(received.reduce((sum, block) => sum + pagesWithContent(block), 0)).toBeGreaterThan(1000);
    },
  );
});
