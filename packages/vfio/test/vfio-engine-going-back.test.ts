import { type MigratableDevice, type MigrationEvent, migrate, receive } from '@godwit/core';
import { type FrameTap, type MemoryLink, memoryLink, VirtualClock } from '@godwit/core/testing';
import type { DeviceModelOptions } from '@godwit/vfio/testing';
import { afterEach, describe, expect, jest, test } from '@jest/globals';
import { closeSides, type ModelSide, modelSide, STATE } from './model-side.js';

jest.setTimeout(240_000);

/** The engine gives stop-and-copies up, and devices of every kind come along: with what they knew last, and none is reset. */

afterEach(closeSides);

/** A device of the VM's own, behind those of the set, whose first saves hang until they are told that it is over. */
function slow(times: number): MigratableDevice {
  let left = times;
  return {
    id: 'slow',
    version: 1,
    async *save(signal) {
      if (left-- > 0) await new Promise((resolve) => signal?.addEventListener('abort', resolve, { once: true }));
      yield Uint8Array.of(1);
    },
    load: async (state) => {
      for await (const _ of state);
    },
    loadWrites: () => [],
  };
}

interface Moved {
  readonly source: ModelSide;
  readonly destination: ModelSide;
  readonly events: readonly MigrationEvent[];
  /** Of the link, both ways. */
  readonly frames: number;
}

interface Journey {
  readonly devices: readonly DeviceModelOptions[];
  /** Saves of a device behind them that hang. */
  readonly hangs?: number;
  /** The link is cut as these frames are sent, counted from 0 over both directions. */
  readonly cuts?: readonly number[];
  readonly delivered?: boolean;
}

/** Moves a VM with these devices; what they know changes whenever the guest runs again at the source. */
async function moved({ devices, hangs = 0, cuts = [], delivered = true }: Journey): Promise<Moved> {
  const source = modelSide(devices, { running: true });
  const destination = modelSide(devices, { running: false });
  for (const model of source.models) model.memory = STATE;
  const clock = new VirtualClock();
  let frames = 0;
  const link: MemoryLink = memoryLink({ clock, fromSource: tapped(), fromDestination: tapped() });
  function tapped(): FrameTap {
    return (frame, payload) => {
      if (cuts.includes(frames++)) link.cut({ delivered });
      return { frame, payload };
    };
  }
  const far = destination.set.attachTo(destination.vm);
  const incoming = receive(link.listener, { prepare: () => ({ ...far, devices: [...far.devices, slow(0)] }), clock });
  const near = source.set.attachTo(source.vm);
  const migration = migrate({ ...near, devices: [...near.devices, slow(hangs)] }, link.connector, { clock });
  const events: MigrationEvent[] = [];
  migration.subscribe((event) => {
    events.push(event);
    if (event.type !== 'went-back') return;
    for (const [i, model] of source.models.entries())
      model.memory = STATE.map((byte) => byte ^ (16 * i + event.attempt));
  });
  await migration.result;
  await incoming.result;
  return { source, destination, events, frames };
}

function expectArrived({ source, destination }: Moved): void {
  const known = (side: ModelSide) => side.models.map(({ memory }) => Buffer.from(memory).toString('hex'));
  expect(known(destination)).toEqual(known(source));
  expect(new Set(destination.models.map(({ state }) => state))).toEqual(new Set(['RUNNING']));
  expect(source.models.map(({ state, resets }) => `${state} ${resets}`)).toEqual(source.models.map(() => 'STOP 0'));
}

const wentBack = ({ events }: Moved) => events.filter(({ type }) => type === 'went-back').length;

describe.each([
  ['pre-copy and P2P', { migrationFlags: 7 }],
  ['pre-copy only', { migrationFlags: 5 }],
  ['P2P only', { migrationFlags: 3 }],
  ['neither', { migrationFlags: 1 }],
])('a device with %s', (_, options) => {
  test('arrives after two stop-and-copies that were given up', async () => {
    // Without P2P a device is migrated alone.
    const beside = (options.migrationFlags & 2) === 0 ? [] : [{ migrationFlags: 7 }];
    const journey = await moved({ devices: [options, ...beside], hangs: 2 });
    expect(wentBack(journey)).toBe(2);
    expectArrived(journey);
  });
});

test.each([
  ['several devices', [{ migrationFlags: 7 }, { migrationFlags: 7 }, { migrationFlags: 3 }]],
  ['one without P2P', [{ migrationFlags: 5 }]],
])('the link is cut at every frame, once and twice more: %s arrive', async (_, devices) => {
  const { frames } = await moved({ devices });
  let back = 0;
  for (let first = 0; first < frames; first++) {
    for (const cuts of [[first], [first, first + 7, first + 14]]) {
      for (const delivered of [true, false]) {
        const journey = await moved({ devices, cuts, delivered });
        back += wentBack(journey);
        expectArrived(journey);
        closeSides();
      }
    }
  }
  expect(back).toBeGreaterThan(frames / 2);
});
