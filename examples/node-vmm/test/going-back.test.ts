import { type MigratableDevice, type MigratableVm, type MigrationEvent, migrate, receive } from '@godwit/core';
import { memoryLink } from '@godwit/core/testing';
import type { MachineConfig, VirtualMachine } from '@godwit/example-node-vmm';
import { afterEach, describe, expect } from '@jest/globals';
import { KINDS, type KindUnderTest } from './machine-kinds.js';
import { ObservedGuest } from './observed-guest.js';

/** The engine gives up stop-and-copies of a running guest: the guest runs on in between, and arrives whole. */

const SMALL: MachineConfig = {
  memoryBytes: 32 * 2 ** 20,
  vcpus: 2,
  workload: { workingSetBytes: 2 ** 20, pagesPerSecond: 4000, heartbeatMicroseconds: 10_000 },
};
/** The bound on a pause in these tests, in milliseconds: far more than a pause, a save and a load of these machines take. */
const PAUSE_LIMIT_MS = 500;

const machines: VirtualMachine[] = [];
afterEach(async () => {
  await Promise.all(machines.splice(0).map((machine) => machine.close()));
});

/** `device`, whose first call of one kind does not return until the stop-and-copy is over. */
function hanging(device: MigratableDevice, call: 'save' | 'load'): MigratableDevice {
  let left = 1;
  const over = (signal?: AbortSignal) =>
    new Promise<void>((resolve) => signal?.addEventListener('abort', () => resolve(), { once: true }));
  return new Proxy(device, {
    get(target, name) {
      if (name === 'save' && call === 'save') {
        return async function* (signal?: AbortSignal) {
          if (left-- > 0) await over(signal);
          else yield* target.save(signal);
        };
      }
      if (name === 'load' && call === 'load') {
        return async (state: AsyncIterable<Uint8Array>, version: number) => {
          await target.load(state, version);
          if (left-- > 0) await new Promise((resolve) => setTimeout(resolve, PAUSE_LIMIT_MS * 2));
        };
      }
      const value: unknown = Reflect.get(target, name, target);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
}

function withDevices(machine: VirtualMachine, devices: readonly MigratableDevice[]): MigratableVm {
  return {
    memory: machine.memory,
    trackers: machine.trackers,
    devices,
    runState: () => machine.runState(),
    prepared: () => machine.prepared(),
    pause: (signal) => machine.pause(signal),
    resume: () => machine.resume(),
    abandon: (reason) => machine.abandon(reason),
  };
}

async function moved(kind: KindUnderTest, call: 'save' | 'load', hangs: string) {
  const source = await kind.create(SMALL);
  machines.push(source);
  const guest = new ObservedGuest();
  guest.follow(source);
  await source.resume();
  await guest.moreBeats(2);
  const link = memoryLink();
  let destination: VirtualMachine | undefined;
  const slow = (machine: VirtualMachine, side: 'save' | 'load') =>
    machine.devices.map((device) => (call === side && device.id === hangs ? hanging(device, call) : device));
  const incoming = receive(link.listener, {
    prepare: async (description) => {
      const machine = await kind.fromDescription(description);
      machines.push(machine);
      guest.follow(machine);
      destination = machine;
      return withDevices(machine, slow(machine, 'load'));
    },
  });
  const events: MigrationEvent[] = [];
  const migration = migrate(withDevices(source, slow(source, 'save')), link.connector, {
    description: source.description,
    downtimeLimitMs: 200,
    pauseLimitMs: PAUSE_LIMIT_MS,
    verify: true,
  });
  migration.subscribe((event) => events.push(event));
  const summary = await migration.result;
  await incoming.result;
  if (destination === undefined) throw new Error('nothing arrived');
  return { source, destination, guest, events, summary };
}

describe.each(KINDS)('a $kind machine', (kind) => {
  for (const [call, device] of [
    ['save', 'pause-clock'],
    ['load', 'mailbox'],
  ] as const) {
    kind.test(`arrives whole after a stop-and-copy in which ${call} of ${device} hung`, async () => {
      const { source, destination, guest, events, summary } = await moved(kind, call, device);
      // On a busy machine another stop-and-copy may be given up. After three, the engine would have ended the migration.
      expect(summary.attempts.length).toBeGreaterThanOrEqual(1);
      expect(events.filter(({ type }) => type === 'went-back').length).toBe(summary.attempts.length);
      expect(summary.verified).toBe(true);
      expect([source.runState(), destination.runState()]).toEqual(['paused', 'running']);
      await guest.moreBeats(5);
      await destination.pause();
      expect(guest.problems).toEqual([]);
      guest.checkMemory(destination);
    });
  }
});
