/**
 * Started by the tests: saves a guest in the background under a limit of the file size, so that the saving fails, and reports the state
 * of the guest and the files on standard output.
 */
import { execFileSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { dirname } from 'node:path';
import { claimOf, GodwitError, migrate } from '@godwit/core';
import { Machine, SoftwareMachine } from '@godwit/example-node-vmm';
import { connectTo, file } from '@godwit/transport';
import { writeProtection } from '@godwit/workers';
import { GuestListener, inspectGuest } from './guest-listener.js';

const [path, kind] = process.argv.slice(2) as [string, 'kvm' | 'software'];
const MIB = 2 ** 20;
const background = writeProtection();
const machine = await (kind === 'kvm' ? Machine : SoftwareMachine).create({
  memoryBytes: 64 * MIB,
  vcpus: 2,
  workload: { workingSetBytes: 24 * MIB, pagesPerSecond: 0, order: 'random', console: 'serial' },
});
const guest = new GuestListener();
guest.follow(machine);
await machine.resume();
await guest.moreBeats(2);
// The limit is reached after the first pages and before the last. It does not affect the guest's memory, a file that has its full size
// already.
execFileSync('prlimit', ['--pid', String(process.pid), `--fsize=${16 * MIB}`]);
const saving = migrate(machine, connectTo(file({ path })), {
  background,
  description: machine.description,
  pauseLimitMs: 0,
});
const error = await saving.result.then(
  () => new Error('it was saved'),
  (reason: unknown) => reason as Error,
);
const { state } = machine;
const blockers = background.blockers(machine.memory);
await guest.moreBeats(3);
await machine.pause();
process.stdout.write(
  JSON.stringify({
    code: GodwitError.is(error) ? error.code : 'none',
    message: error.message,
    ...{ state, ownership: saving.ownership, blockers },
    files: readdirSync(dirname(path)),
    problems: guest.problems,
    defects: inspectGuest(machine).defects,
  }),
);
// The result is there before the last thread has let go of the memory.
await claimOf(machine).free;
await machine.close();
await background.close();
