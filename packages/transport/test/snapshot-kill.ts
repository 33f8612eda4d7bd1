/** Started by the tests, to be killed: saves a guest that never converges, and tells each round on standard output. */
import { migrate } from '@godwit/core';
import { connectTo, file } from '@godwit/transport';
import { atFrame, fill, machine, PAGE, pageOf } from './snapshot-machine.js';

const [path, type] = process.argv.slice(2) as [string, string];
const vm = fill(machine());
// What it was asked to die before never comes.
const stop = async (): Promise<void> => {
  process.stdout.write('now\n');
  await new Promise(() => {});
};
const migration = migrate(vm, atFrame(connectTo(file({ path })), type, stop), {
  verify: true,
  pageChannels: 2,
  progressIntervalMs: 0,
  policy: ({ outcome }) => ({
    action: outcome.round < 4 || type === 'never' ? 'continue' : 'switchover',
    reason: 'as planned',
  }),
});
migration.subscribe((event) => {
  if (event.type === 'round-start' && vm.running) vm.write(0, 9 * PAGE, pageOf(event.round));
  if (event.type === 'round' && event.round.round === 4 && type === 'never') process.stdout.write('now\n');
});
// Keeps the process when nothing else does.
setInterval(() => {}, 1000);
await migration.result;
