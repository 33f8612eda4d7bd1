import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';

/** The repository; this file runs compiled, in test/dist/kernel/stock. */
const ROOT = join(import.meta.dirname, '..', '..', '..', '..');

/** KVM inside an emulated processor: a guest of node-vmm runs in it, and migrates between two processes. */
test('the demo, with a KVM guest of 16 MiB: it arrives, compared to the last byte', async () => {
  const demo = join(ROOT, 'examples/node-vmm/dist/demo/cli.js');
  const child = spawn(process.execPath, [demo, '--json', '--memory', '16M', '--vcpus', '1'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let output = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    output += text;
  });
  await new Promise((resolve) => child.once('close', resolve));
  const events = output
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line));
  expect(events.find(({ event }) => event === 'guest')).toMatchObject({ spec: { kind: 'kvm' } });
  expect(events.at(-1)).toMatchObject({ event: 'completed', verified: true });
}, 900_000);
