import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { afterEach, expect, test } from '@jest/globals';
import type { DestinationReport, SourceOrder, SourceReport } from '../end-to-end/vfio-host-report.js';

/**
 * node-vmm's guest with VFIO devices moves between two processes. Its vCPU, nested in a machine that is emulated, keeps writing
 * its memory while the test device writes other pages of it by DMA: neither KVM nor this project's processes see the device's
 * writes.
 */

const children: ChildProcess[] = [];
afterEach(() => {
  for (const child of children.splice(0)) child.kill('SIGKILL');
});

function host(order: object): ChildProcess {
  const child = fork(join(import.meta.dirname, '../end-to-end/vfio-host.js'));
  children.push(child);
  child.send(order);
  return child;
}

async function message(child: ChildProcess): Promise<Record<string, unknown>> {
  const ended = once(child, 'exit').then(([code]) => {
    throw new Error(`a host process ended with ${code} before it said anything`);
  });
  ended.catch(() => {});
  const [said] = await Promise.race([once(child, 'message'), ended]);
  return said as Record<string, unknown>;
}

async function report<R>(child: ChildProcess): Promise<R> {
  const exited = once(child, 'exit');
  const { report: found, error } = await message(child);
  if (error !== undefined) throw new Error(String(error));
  expect(await exited).toEqual([0, null]);
  return found as R;
}

async function run(order: Omit<SourceOrder, 'role' | 'port'>): Promise<[SourceReport, DestinationReport]> {
  const destination = host({ role: 'destination' });
  const { port } = await message(destination);
  const arrived = report<DestinationReport>(destination);
  const sent = report<SourceReport>(host({ role: 'source', port, ...order }));
  return Promise.all([sent, arrived]);
}

test('the guest moves with its devices: every byte equal, DMA included, and the port answers there', async () => {
  const [source, destination] = await run({ blind: false, text: 'moved' });
  expect(source.outcome).toMatchObject({ verified: true });
  expect(source.state).toBe('paused');
  expect(destination).toMatchObject({ arrived: true, defects: [], answer: 'moved' });
  expect(destination).toMatchObject({ dmaDigest: source.dmaDigest });
  // Both wrote all the time; KVM logged the vCPU's writes, and VFIO the device's.
  expect(source.writes).toBeGreaterThan(20);
  const precopy = source.rounds.filter(({ phase }) => phase === 'pre-copy');
  // Four rounds by the policy, and more while the destination is not prepared, since the guest runs meanwhile.
  expect(precopy.length).toBeGreaterThanOrEqual(4);
  for (const { trackers } of precopy) {
    expect(trackers.map(({ name }) => name)).toEqual(['kvm', 'mailbox', 'vfio-type1']);
    expect(trackers.find(({ name }) => name === 'kvm')?.dirtyPages).toBeGreaterThan(0);
    expect(trackers.find(({ name }) => name === 'vfio-type1')?.dirtyPages).toBeGreaterThan(0);
  }
}, 900_000);

test('without the tracker of VFIO the comparison fails, and the guest stays where it is', async () => {
  const [source, destination] = await run({ blind: true, text: 'stays' });
  expect(source.outcome).toMatchObject({
    code: 'GODWIT_VERIFY_FAILED',
    message: expect.stringMatching(/a writer of guest memory is seen by no dirty tracker/),
  });
  expect(source).toMatchObject({ state: 'running', defects: [], answer: 'stays' });
  expect(source.rounds.every(({ trackers }) => trackers.every(({ name }) => name !== 'vfio-type1'))).toBe(true);
  expect(destination).toEqual({ arrived: false, code: 'GODWIT_VERIFY_FAILED' });
}, 900_000);

test('a mapping that moves every 50 ms while the device writes through it, and before each look at the log: every byte equal', async () => {
  const [source, destination] = await run({ blind: false, moving: 'ordered', text: 'moved' });
  expect(source.outcome).toMatchObject({ verified: true });
  expect(destination).toMatchObject({ arrived: true, defects: [], answer: 'moved', dmaDigest: source.dmaDigest });
  expect(source.moves).toBeGreaterThan(4);
}, 900_000);

test('the same with the order of unmaps and harvests left out: the comparison fails, and the guest stays where it is', async () => {
  const [source, destination] = await run({ blind: false, moving: 'unordered', text: 'stays' });
  expect(source.outcome).toMatchObject({ code: 'GODWIT_VERIFY_FAILED' });
  expect(source).toMatchObject({ state: 'running', defects: [], answer: 'stays' });
  expect(destination).toEqual({ arrived: false, code: 'GODWIT_VERIFY_FAILED' });
}, 900_000);
