import { setTimeout as sleep } from 'node:timers/promises';
import type { MigratableDevice } from '@godwit/core';
import { Machine } from '@godwit/example-node-vmm';
import { Msr } from '@godwit/linux/kvm';
import { expect, test } from '@jest/globals';

/*
 * Needs a KVM that sets the time-stamp counter, which not every host's KVM does. If a loaded value is within a second of the
 * value that an earlier load would have reached by now, KVM uses that value instead. So it is the second load that can go
 * wrong.
 */

const SHAPE = { memoryBytes: 16 * 2 ** 20, vcpus: 2 };

async function saved(device: MigratableDevice): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of device.save()) chunks.push(Uint8Array.from(chunk));
  return Buffer.concat(chunks);
}

/** The counter in a vCPU's state: its MSRs are u32 index, u64 value. */
function counterIn(state: Buffer): bigint {
  const msrs = state.indexOf('MSRS');
  const entry = state.indexOf(Buffer.from(Uint32Array.of(Msr.timeStampCounter).buffer), msrs + 8);
  return state.readBigUInt64LE(entry + 4);
}

function vcpusOf(machine: Machine): readonly MigratableDevice[] {
  return machine.devices.filter(({ id }) => id.startsWith('vcpu'));
}

test('loaded again after a shorter way, the counters of all vCPUs go on from where the guest was', async () => {
  const source = await Machine.create(SHAPE);
  const destination = await Machine.fromDescription({ kind: 'kvm', ...SHAPE });
  await destination.prepared();
  try {
    // The time for which the state is in flight. If this is shorter than the previous time, the counter could go back.
    for (const underWayMs of [600, 0]) {
      const states: Buffer[] = [];
      for (const vcpu of vcpusOf(source)) {
        states.push(await saved(vcpu));
        // Imitates a short transfer; the counter of the next state is ahead by this time.
        await sleep(20);
      }
      await sleep(underWayMs);
      for (const [i, vcpu] of vcpusOf(destination).entries()) {
        const state = states[i] as Buffer;
        await vcpu.load(
          (async function* () {
            yield state;
          })(),
          vcpu.version,
        );
      }
      const first = counterIn(states[0] as Buffer);
      for (const vcpu of vcpusOf(destination)) {
        const passed = counterIn(await saved(vcpu)) - first;
        expect(passed).toBeGreaterThanOrEqual(0n);
        // Ten seconds at 10 GHz: the counter is not far off.
        expect(passed).toBeLessThan(10n ** 11n);
      }
      await sleep(500);
    }
  } finally {
    await source.close();
    await destination.close();
  }
}, 120_000);
