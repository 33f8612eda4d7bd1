import { hostSupport } from '@godwit/linux';
import { describe, expect, jest, test } from '@jest/globals';
import type { Moved } from '../dirty-ring/host-messages.js';
import { roundTrips } from '../dirty-ring/round-trips.js';

jest.setTimeout(240_000);

const MIB = 2 ** 20;
const support = hostSupport().kvmDirtyRing;

const suite = (): void => {
  test('a live guest whose writes are logged in dirty rings moves there and back, compared to the last byte each time', async () => {
    const moves: Moved[] = [];
    const problems: string[] = [];
    await roundTrips({
      config: {
        ...{ memoryBytes: 64 * MIB, vcpus: 2, dirtyRing: true },
        workload: { workingSetBytes: 16 * MIB, pagesPerSecond: 20_000 },
      },
      times: 3,
      onMoved: (moved, found) => {
        moves.push(moved);
        problems.push(...found);
      },
    });
    expect(problems).toEqual([]);
    expect(moves.map(({ verified }) => verified)).toEqual(new Array(6).fill(true));
    expect(moves.reduce((sum, { ringPages }) => sum + ringPages, 0)).toBeGreaterThan(0);
  });
};

if (support.usable) describe('with dirty rings', suite);
else describe.skip(`with dirty rings (skipped: ${support.reason})`, suite);
