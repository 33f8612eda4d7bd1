/**
 * `npm run test:dirty-ring -- [--times N] [--entries N]`: moves a live KVM guest whose writes are logged in dirty rings there and back
 * between two processes, and compares the memory of both sides and examines the guest after each move.
 */
import { parseArgs } from 'node:util';
import { hostSupport } from '@godwit/linux';
import type { Moved } from './host-messages.js';
import { roundTrips } from './round-trips.js';

const MIB = 2 ** 20;
/** Migrations between two messages of progress. */
const SAY_EVERY = 20;

const { values } = parseArgs({
  options: { times: { type: 'string', default: '100' }, entries: { type: 'string' } },
});
const times = Number(values.times);
const support = hostSupport().kvmDirtyRing;
if (!support.usable) {
  process.stdout.write(`dirty ring: it cannot run here: ${support.reason}\n`);
  process.exit(1);
}
const moves: Moved[] = [];
let defects = 0;
await roundTrips({
  config: {
    ...{ memoryBytes: 64 * MIB, vcpus: 2, dirtyRing: values.entries === undefined ? true : Number(values.entries) },
    workload: { workingSetBytes: 16 * MIB, pagesPerSecond: 20_000 },
  },
  times,
  onMoved: (moved, problems) => {
    moves.push(moved);
    for (const problem of [...problems, ...(moved.verified ? [] : ['the memory of both sides was not compared'])]) {
      defects++;
      process.stdout.write(`migration ${moves.length}: ${problem}\n`);
    }
    if (moves.length % SAY_EVERY === 0) process.stdout.write(`${moves.length} migrations, ${defects} defects\n`);
  },
});
const sum = (of: (moved: Moved) => number): number => moves.reduce((total, moved) => total + of(moved), 0);
const downtimes = moves.map(({ downtimeMs }) => downtimeMs).sort((a, b) => a - b);
process.stdout.write(
  `${times} times there and back: ${moves.length} migrations, ${defects} defects; ${sum(({ rounds }) => rounds)} rounds, ` +
    `${sum(({ ringPages }) => ringPages)} dirty pages from the rings, full ${sum(({ ringFull }) => ringFull)} times, ` +
    `${sum(({ failures }) => failures)} harvests failed; downtime ${downtimes[downtimes.length >> 1]?.toFixed(1)} ms (median), ` +
    `${downtimes.at(-1)?.toFixed(1)} ms at most\n`,
);
if (defects > 0) process.exitCode = 1;
