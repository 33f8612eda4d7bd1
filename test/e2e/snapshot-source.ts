/**
 * Started by the tests: boots a guest, lets it write, saves it live and ends. The last line on standard output describes
 * the snapshot: the checksum of each RAM block, and the position in the guest's console.
 */
import { createHash } from 'node:crypto';
import { migrate, roundCap } from '@godwit/core';
import { Machine, SoftwareMachine } from '@godwit/example-node-vmm';
import { connectTo, transportFromUri } from '@godwit/transport';
import { GuestListener, pictureAsText } from './guest-listener.js';

const [uri, kind] = process.argv.slice(2) as [string, 'kvm' | 'software'];
const MIB = 2 ** 20;
const machine = await (kind === 'kvm' ? Machine : SoftwareMachine).create({
  memoryBytes: 64 * MIB,
  vcpus: 2,
  workload: { workingSetBytes: 16 * MIB, pagesPerSecond: 5000, order: 'random', wholePages: true, console: 'serial' },
});
const guest = new GuestListener();
guest.follow(machine);
await machine.resume();
await guest.moreBeats(5);
const { verified, rounds } = await migrate(machine, connectTo(transportFromUri(uri)), {
  description: machine.description,
  pageChannels: 2,
  verify: true,
  policy: roundCap(4, 'switchover'),
}).result;
const sums = machine.memory.blocks.map((block) =>
  createHash('sha256').update(block.view(0, block.byteLength)).digest('hex'),
);
process.stdout.write(
  `${JSON.stringify({ verified, rounds: rounds.length, problems: guest.problems, sums, heard: guest.heard }, pictureAsText)}\n`,
);
await machine.close();
