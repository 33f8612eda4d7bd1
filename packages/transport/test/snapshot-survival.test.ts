import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { MigrateOptions } from '@godwit/core';
import { ManualTracker, type ToyVm } from '@godwit/core/testing';
import { afterAll, describe, expect, jest, test } from '@jest/globals';
import fc from 'fast-check';
import { readSnapshot } from './snapshot-forge.js';
import {
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
} from './snapshot-machine.js';

jest.setTimeout(180_000);

const { folder, newPath, close } = await snapshotFolder();
afterAll(close);

describe('a process that is killed while it saves', () => {
  async function killed(path: string, type: string): Promise<void> {
    const script = join(import.meta.dirname, 'snapshot-kill.js');
    const child = spawn(process.execPath, [script, path, type], { stdio: ['ignore', 'pipe', 'inherit'] });
    const exit = once(child, 'exit');
    expect(String((await once(child.stdout, 'data'))[0])).toBe('now\n');
    child.kill('SIGKILL');
    expect(await exit).toEqual([null, 'SIGKILL']);
  }

  test.each(['never', 'device', 'switchover'])(
    'leaves no snapshot (at %p), and the next save cleans up',
    async (type) => {
      const path = newPath();
      writeFileSync(path, 'an older snapshot');
      await killed(path, type);
      expect(readFileSync(path, 'utf8')).toBe('an older snapshot');
      const [partial] = partials(folder);
      expect(partial).toMatch(/^guest-\d+\.snap\.\d+\.[0-9a-f]{8}\.partial$/);
      await expect(restore(machine({ empty: true }), join(folder, partial as string))).rejects.toMatchObject({
        code: 'GODWIT_BAD_STREAM',
        message: expect.stringContaining('saving was interrupted'),
      });
      // A file of a living process, or of another snapshot, is not its to remove.
      const others = [`${path}.${process.ppid}.00000000.partial`, `${path}x.1.00000000.partial`, `${path}.1.0.partial`];
      for (const other of others) writeFileSync(other, '');
      const vm = fill(machine());
      await save(vm, path);
      expect(partials(folder).sort()).toEqual(others.map((name) => name.slice(folder.length + 1)).sort());
      for (const other of others) rmSync(other);
      const copy = machine({ empty: true });
      await restore(copy, path);
      expect(vm.memory.equals(copy.memory)).toBe(true);
    },
  );

  test.each(['digests', 'go'])(
    "after it was made whole (at %p) leaves the guest's last moment, without its name",
    async (type) => {
      const path = newPath();
      await killed(path, type);
      expect(existsSync(path)).toBe(false);
      const [partial] = partials(folder);
      const copy = machine({ empty: true });
      await restore(copy, join(folder, partial as string));
      expect(Buffer.compare(copy.memory.blocks[0]?.bytes.subarray(9 * PAGE, 10 * PAGE) as Uint8Array, pageOf(4))).toBe(
        0,
      );
      await save(fill(machine()), path);
      expect(partials(folder)).toEqual([partial]);
      rmSync(join(folder, partial as string));
    },
  );
});

/** What a guest does while a round is sent. */
interface Step {
  readonly kind: 'write' | 'zero' | 'part' | 'discard';
  readonly block: number;
  readonly first: number;
  readonly pages: number;
}

const step: fc.Arbitrary<Step> = fc
  .record({
    kind: fc.constantFrom('write', 'write', 'zero', 'part', 'discard'),
    block: fc.nat(BLOCKS.length - 1),
    first: fc.nat(299),
    pages: fc.oneof(fc.constant(1), fc.integer({ min: 1, max: 80 })),
  })
  .map(({ kind, block, first, pages }) => {
    const count = (BLOCKS[block] as (typeof BLOCKS)[number]).byteLength / PAGE;
    return { kind, block, first: first % count, pages: Math.min(pages, count - (first % count)) } as Step;
  });

function apply(vm: ToyVm, model: readonly Uint8Array[], { kind, block, first, pages }: Step, seed: number): void {
  const bytes = model[block] as Uint8Array;
  for (let page = first; page < first + pages; page++) {
    const contents = kind === 'write' ? pageOf(seed * 1000 + page) : new Uint8Array(PAGE);
    if (kind === 'part') contents.set(bytes.subarray(page * PAGE, (page + 1) * PAGE));
    if (kind === 'part') contents.set(pageOf(seed + page).subarray(0, 100), (page * 37) % (PAGE - 100));
    bytes.set(contents, page * PAGE);
    if (kind !== 'discard') vm.write(block, page * PAGE, contents);
  }
  if (kind === 'discard') vm.discard(block, { firstPage: first, pageCount: pages });
}

test('whatever is written, zeroed and given back in whatever round, the restored guest is the naive model', async () => {
  const plan = fc.array(fc.array(step, { maxLength: 6 }), { minLength: 1, maxLength: 6 });
  await fc.assert(
    fc.asyncProperty(plan, fc.constantFrom(0, 1, 3), fc.boolean(), async (rounds, pageChannels, manual) => {
      const path = newPath();
      const vm = machine();
      if (manual) vm.track(new ManualTracker(vm.memory));
      const model = BLOCKS.map(({ byteLength }) => new Uint8Array(byteLength));
      for (const one of rounds[0] ?? []) apply(vm, model, one, 1);
      const options: MigrateOptions = {
        pageChannels,
        verify: true,
        policy: ({ outcome }) => ({
          action: outcome.round < rounds.length ? 'continue' : 'switchover',
          reason: 'as planned',
        }),
      };
      const migration = saving(vm, path, options);
      migration.subscribe((event) => {
        if (event.type !== 'round-start' || !vm.running) return;
        for (const one of rounds[event.round] ?? []) apply(vm, model, one, event.round + 1);
      });
      const { verified } = await migration.result;
      expect(verified).toBe(true);
      const copy = machine({ empty: true });
      const { summary } = await restore(copy, path, { verify: true });
      expect(summary.verified).toBe(true);
      const { ram } = readSnapshot(readFileSync(path));
      for (const [i, bytes] of model.entries()) {
        expect(Buffer.compare(bytes, copy.memory.blocks[i]?.bytes as Uint8Array)).toBe(0);
        expect(Buffer.compare(bytes, ram[i] as Buffer)).toBe(0);
      }
      rmSync(path);
    }),
    { numRuns: 25 },
  );
});
