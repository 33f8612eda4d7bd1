import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { migrate, receive } from '@godwit/core';
import { Machine, type MachineConfig } from '@godwit/example-node-vmm';
import { checkSnapshot, connectTo, file, listenOn } from '@godwit/transport';
import { afterEach, expect, jest, test } from '@jest/globals';
import { forKvm } from './guest-kinds.js';

jest.setTimeout(120_000);

/** A guest whose RAM behind the hole below 4 GiB has more bytes than 32 bits count. */
const CONFIG: MachineConfig = {
  memoryBytes: 9 * 2 ** 30,
  vcpus: 2,
  overcommit: true,
  workload: { workingSetBytes: 16 * 2 ** 20, pagesPerSecond: 5000, order: 'random' },
};

const ending: (() => unknown)[] = [];

afterEach(async () => {
  for (const end of ending.splice(0).reverse()) await end();
});

forKvm(() => {
  test('a snapshot of a guest with a RAM block beyond 4 GiB is whole, and the guest goes on from it', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'godwit-large-'));
    ending.push(() => rmSync(folder, { recursive: true, force: true }));
    const path = join(folder, 'guest.snap');
    const machine = await Machine.create(CONFIG);
    ending.push(() => machine.close());
    await machine.resume();
    const { result } = migrate(machine, connectTo(file({ path })), { description: machine.description, verify: true });
    expect((await result).verifiedPages).toBeGreaterThan(0);
    const damage: unknown[] = [];
    for await (const found of checkSnapshot(path)) if (found.type === 'damage') damage.push(found.error);
    expect(damage).toEqual([]);

    let restored: Machine | undefined;
    const incoming = receive(await listenOn(file({ path })), {
      prepare: async (description) => {
        restored = await Machine.fromDescription(description, { overcommit: true });
        ending.push(() => restored?.close());
        return restored;
      },
    });
    await incoming.result;
    expect(restored?.state).toBe('running');
  });
});
