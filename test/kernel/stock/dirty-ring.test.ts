import { hostSupport } from '@godwit/linux';
import { expect, test } from '@jest/globals';
import type { Moved } from '../../dirty-ring/host-messages.js';
import { roundTrips } from '../../dirty-ring/round-trips.js';

const MIB = 2 ** 20;

/** A KVM whose processor runs the guest, and does not emulate it: it leaves the guest before a ring is full. */
test('a KVM guest of 16 MiB whose writes are logged in the smallest dirty ring goes there and back, compared to the last byte', async () => {
  expect(hostSupport().kvmDirtyRing).toEqual({ usable: true });
  const moves: Moved[] = [];
  const problems: string[] = [];
  await roundTrips({
    config: {
      ...{ memoryBytes: 16 * MIB, vcpus: 1, dirtyRing: 4096 },
      workload: { workingSetBytes: 2 * MIB, pagesPerSecond: 2000 },
    },
    times: 1,
    onMoved: (moved, found) => {
      moves.push(moved);
      problems.push(...found);
    },
  });
  expect(problems).toEqual([]);
  expect(moves.map(({ verified, failures }) => [verified, failures])).toEqual([
    [true, 0],
    [true, 0],
  ]);
}, 900_000);
