import { migrate, type RoundRecord, receive } from '@godwit/core';
import { memoryLink } from '@godwit/core/testing';
import { deviceBytes, framedState } from '@godwit/vfio/testing';
import {
  DeviceMigration,
  hasState,
  MIGRATION_STATES,
  type MigrationState,
  migrationPath,
  STATE_NUMBER,
  STATE_VERSION,
} from '@godwit/vfio/unstable';
import { afterEach, describe, expect, test } from '@jest/globals';
import { Feature, feature, SET } from '../guest/device-feature.js';
import type { MediatedDeviceType } from '../guest/mediated-device.js';
import { MttyVm } from '../guest/mtty-vm.js';
import { u32 } from '../guest/vfio-calls.js';

/** The kernel's own sample of a migratable device, a serial port in loopback: what is written to it can be read back. */

/** Before each piece of a device's state. */
const RECORD_HEAD = 8;

const open: MttyVm[] = [];
afterEach(async () => {
  for (const vm of open.splice(0)) await vm.close();
});
function mtty(running: boolean, type?: MediatedDeviceType): MttyVm {
  const vm = new MttyVm(running, type);
  open.push(vm);
  return vm;
}

async function move(source: MttyVm, destination: MttyVm) {
  const link = memoryLink();
  const there = await destination.vm();
  const incoming = receive(link.listener, { prepare: () => there });
  const migration = migrate(await source.vm(), link.connector, { verify: true });
  const rounds: RoundRecord[] = [];
  migration.subscribe({ next: (event) => event.type === 'round' && rounds.push(event.round), error: () => {} });
  incoming.subscribe({ error: () => {} });
  const [sent, received] = await Promise.allSettled([migration.result, incoming.result]);
  return { sent, received, rounds };
}

test('what the device can do', () => {
  const { migratable, device } = mtty(true);
  expect(migratable.migration.capabilities).toEqual({ p2p: true, preCopy: true });
  expect(migratable.kind).toBe('mdev:mtty-1');
  expect(device.info().regionCount).toBeGreaterThan(0);
  expect(migratable.stateBytes()).toBe(24 + 36);
});

test('its state crosses by PRE_COPY and STOP_COPY, and the port at the destination answers', async () => {
  const source = mtty(true);
  const destination = mtty(false);
  source.type('over');
  const { sent, received } = await move(source, destination);
  expect([sent, received]).toMatchObject([{ status: 'fulfilled' }, { status: 'fulfilled' }]);
  expect(destination.running).toBe(true);
  expect(destination.migratable.migration.state()).toBe('RUNNING');
  expect(source.migratable.migration.state()).toBe('STOP');
  expect(destination.answer()).toBe('over');
});

test('pre-copy gives the header, stop-copy the ports; in between the estimate shrinks', async () => {
  const source = mtty(true);
  const pieces: number[] = [];
  for await (const piece of source.migratable.precopy?.() ?? []) pieces.push(piece.byteLength);
  // The header of @godwit/vfio, then mtty's own state in a record.
  expect(pieces).toEqual([8 + 'mdev:mtty-1'.length, RECORD_HEAD + 24]);
  expect(source.migratable.migration.state()).toBe('PRE_COPY');
  for await (const _ of source.migratable.precopy?.() ?? []) throw new Error('there is nothing more to say');
  await source.set.pause();
  expect(source.migratable.migration.state()).toBe('STOP_COPY');
  let rest = 0;
  for await (const piece of source.migratable.save()) rest += piece.byteLength;
  expect(rest).toBe(RECORD_HEAD + 36);
  await source.set.resume();
  expect(source.migratable.migration.state()).toBe('RUNNING');
  await source.migratable.release();
});

test('a stop-and-copy that is given up: before its save nothing is void, after it everything moves anew', async () => {
  const source = mtty(true);
  const destination = mtty(false);
  const vm = await source.vm();
  await destination.vm();
  const { migratable: from } = source;
  const { migratable: to } = destination;
  const state: Uint8Array[] = [];
  const round = async (): Promise<void> => {
    for await (const piece of from.precopy?.() ?? []) state.push(Uint8Array.from(piece));
  };
  const loaded = async function* (cut: Error | undefined): AsyncGenerator<Uint8Array> {
    yield* state.splice(0);
    if (cut !== undefined) throw cut;
  };
  expect(from.switchoverBlocker()).toMatch(/has not begun/);
  await round();
  expect(from.switchoverBlocker()).toBeUndefined();
  await vm.pause();
  expect(from.migration.state()).toBe('PRE_COPY_P2P');
  await vm.resume();
  expect(from.migration.state()).toBe('PRE_COPY');
  await round();
  expect(state).toHaveLength(2);

  await vm.pause();
  const giveUp = new AbortController();
  const pieces = from.save(giveUp.signal);
  expect((await pieces.next()).value?.byteLength).toBe(RECORD_HEAD + 36);
  giveUp.abort();
  expect((await pieces.next()).done).toBe(true);
  await vm.resume();
  expect(from.migration.state()).toBe('RUNNING');
  await expect(to.load(loaded(new Error('given up')), STATE_VERSION)).rejects.toThrow('given up');
  await to.reset();
  await from.restart();

  // Two more stop-and-copies: the first one is given up when the destination has all of its state.
  for (const text of ['once', 'more']) {
    source.type(text);
    await round();
    await vm.pause();
    for await (const piece of from.save()) state.push(Uint8Array.from(piece));
    await to.load(loaded(undefined), STATE_VERSION);
    expect(to.migration.state()).toBe('STOP');
    if (text === 'more') break;
    await vm.resume();
    await to.reset();
    await from.restart();
  }
  await destination.set.resume();
  expect(destination.answer()).toBe('oncemore');
  await from.release();
});

test('a destination with another device: both say why, and the port goes on at the source', async () => {
  const source = mtty(true);
  const destination = mtty(false, 'mtty-2');
  source.type('here');
  const { sent } = await move(source, destination);
  expect(sent).toMatchObject({ reason: { code: 'GODWIT_DEVICE_FAILED' } });
  expect(String((sent as PromiseRejectedResult).reason)).toMatch(
    /kind "mdev:mtty-1", this is one of kind "mdev:mtty-2"/,
  );
  expect(source.running).toBe(true);
  expect(source.migratable.migration.state()).toBe('RUNNING');
  expect(source.answer()).toBe('here');
});

test.each([
  ['cut short', (state: Uint8Array) => state.subarray(0, -1)],
  ['with a byte too many', (state: Uint8Array) => Uint8Array.of(...state, 0)],
  ['of something else', (state: Uint8Array) => state.map((byte, i) => (i < 10 ? byte : byte ^ 0xff))],
])('state %s is refused, and the device is usable again', async (_, spoil) => {
  const source = mtty(true);
  const destination = mtty(false);
  source.type('spoiled');
  const state: number[] = [];
  for await (const piece of source.migratable.save()) state.push(...piece);
  await source.migratable.release();
  const spoiled = (async function* () {
    const { kind } = source.migratable;
    yield framedState(kind, spoil(deviceBytes(kind, Uint8Array.from(state))));
  })();
  await expect(destination.migratable.load(spoiled, STATE_VERSION)).rejects.toMatchObject({
    code: 'GODWIT_DEVICE_FAILED',
  });
  expect(destination.migratable.migration.state()).toBe('RUNNING');
  destination.type('clean');
  expect(destination.answer()).toBe('clean');
});

describe('every pair of states: the kernel goes where the table says there is a way, and nowhere else', () => {
  // RESUMING can be left only after complete state was written, which another test covers.
  const from = MIGRATION_STATES.filter((state) => state !== 'ERROR' && state !== 'RESUMING');
  test.each(from)('from %s', async (start) => {
    const { device } = mtty(true);
    const migration = new DeviceMigration(device);
    const refusals: string[] = [];
    for (const to of MIGRATION_STATES) {
      const fds = [await migration.moveTo(start)];
      const expected = migrationPath(start, to, migration.capabilities) !== null;
      const data = u32(STATE_NUMBER[to], 0xffff_ffff);
      const result = feature(device, Feature.MIG_DEVICE_STATE | SET, data);
      fds.push(result === 0 ? new DataView(data.buffer).getInt32(4, true) : -1);
      if ((result === 0) !== expected) refusals.push(`${start} to ${to}: ${result}`);
      if (result === 0) expect(migration.state()).toBe(to);
      for (const fd of fds) if (fd !== null && fd >= 0) device.port.close(fd);
      await device.reset();
    }
    expect(refusals).toEqual([]);
  });

  test('and the states are those that its capabilities promise', () => {
    const { migratable } = mtty(true);
    const states = MIGRATION_STATES.filter((state: MigrationState) =>
      hasState(state, migratable.migration.capabilities),
    );
    expect(states).toHaveLength(8);
  });
});
