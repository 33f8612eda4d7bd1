import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { type MigratableVm, migrate } from '@godwit/core';
import type { Machine } from '@godwit/example-node-vmm';
import { connectTo, unix } from '@godwit/transport';
import { afterEach, beforeEach, expect, jest, test } from '@jest/globals';
import { GUEST, LiveGuest } from '../guest/live-guest.js';
import { forKvm } from './guest-kinds.js';
import type { UpgradeReport } from './upgrade-host.js';

jest.setTimeout(60_000);

const HOST = fileURLToPath(new URL('upgrade-host.js', import.meta.url));

let folder: string;
let child: ChildProcess | undefined;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'godwit-upgrade-'));
});

afterEach(() => {
  child?.kill('SIGKILL');
  rmSync(folder, { recursive: true, force: true });
});

/** Starts the new VMM with the guest's memory files, and returns its reports. */
async function newVmm({ memory }: Machine, path: string, ...how: string[]) {
  const layout = memory.blocks.map(({ id, guestPhysicalAddress, byteLength }) => ({
    id,
    guestPhysicalAddress,
    byteLength,
  }));
  const files = memory.blocks.map(({ fd }) => fd as number);
  const started = spawn(process.execPath, [HOST, path, JSON.stringify(layout), ...how], {
    stdio: ['ignore', 'pipe', 'inherit', ...files],
  });
  child = started;
  const reports: UpgradeReport[] = [];
  const lines = createInterface({ input: started.stdout as NodeJS.ReadableStream });
  const first = once(lines, 'line');
  lines.on('line', (line) => reports.push(JSON.parse(line) as UpgradeReport));
  const ended = once(started, 'exit');
  await Promise.race([first, ended]);
  return { reports, ended };
}

forKvm(() => {
  test('a running guest moves to a new VMM process with its memory left where it is', async () => {
    const guest = await LiveGuest.boot({ ...GUEST, memoryBytes: 64 * 2 ** 20, vcpus: 2, memoryFiles: true });
    expect(await guest.examine()).toEqual([]);
    const machine = guest.machine as Machine;
    const path = join(folder, 'socket');
    const { reports, ended } = await newVmm(machine, path);
    expect(reports).toEqual([{ type: 'listening' }]);
    for (const block of machine.memory.blocks) block.shared = true;
    const { description } = machine;
    const migration = migrate(machine as MigratableVm, connectTo(unix({ path })), {
      description,
      verify: true,
      pageChannels: 2,
    });
    const summary = await migration.result;
    expect([summary.rawBytes, summary.verifiedPages, guest.here]).toEqual([0, 0, false]);
    // The guest runs on in memory that only the new process has.
    await guest.close();
    await ended;
    expect(reports.slice(1)).toEqual([{ type: 'arrived', running: true, problems: [] }]);
  });

  test('a guest whose new VMM refuses runs on in the old one, and its memory is right', async () => {
    const guest = await LiveGuest.boot({ ...GUEST, memoryFiles: true });
    const machine = guest.machine as Machine;
    const path = join(folder, 'socket');
    const { reports, ended } = await newVmm(machine, path, 'refuse');
    for (const block of machine.memory.blocks) block.shared = true;
    const { description } = machine;
    const migration = migrate(machine as MigratableVm, connectTo(unix({ path })), { description });
    await expect(migration.result).rejects.toMatchObject({ code: 'GODWIT_DEVICE_FAILED' });
    await ended;
    expect(reports.slice(1)).toEqual([{ type: 'refused', code: 'GODWIT_DEVICE_FAILED' }]);
    expect([guest.here, await guest.examine()]).toEqual([true, []]);
    await guest.close();
  });
});
