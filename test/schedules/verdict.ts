import { claimOf } from '@godwit/core';
import { mustComplete } from './completes.js';
import { firstDifference } from './watched-memory.js';
import type { World } from './world.js';

/** Checks the invariants at the end of a schedule; each that does not hold becomes a problem of the world. */
export function judge(world: World): void {
  expectSettled(world);
  expectCompleted(world);
  expectNothingLeft(world);
  expectOneRunner(world);
  expectMemory(world);
  expectClaims(world);
}

/** How the schedule ended, in a few words, for the histogram. */
export function endingOfWorld(world: World): string {
  const { departures, guest, source } = world;
  const first = departures[0];
  const runners = [...guest.runners].filter(({ process, running }) => process.alive && running);
  const where =
    runners.length === 0
      ? (whyNobodyRuns(world) ?? 'nobody runs it')
      : runners[0] === world.home
        ? 'runs at the source'
        : 'runs at a destination';
  const how = !source.alive
    ? 'source died'
    : first?.ending === undefined
      ? 'not settled'
      : (first.ending.code ?? 'completed');
  return `${how}: ${where}`;
}

function expectSettled(world: World): void {
  for (const party of [...world.departures, ...world.arrivals]) {
    const { name, process, ending } = party;
    if (!process.alive || ending !== undefined) continue;
    // After `go` the guest is the destination's alone: `receive` waits for `resume` without a limit.
    if (startsForEver(world) && 'incoming' in party && party.incoming.ownership === 'running') continue;
    world.fault('not settled', `${name}: neither resolved nor rejected, though it was cancelled long ago`);
  }
}

function expectCompleted(world: World): void {
  const [first] = world.departures;
  if (first?.ending?.code === undefined || !mustComplete(world)) return;
  world.fault(
    'not completed',
    `${first.name}: ${first.ending.code} ${first.ending.message}, though every obstacle went`,
  );
}

/** Checks that living processes have no pending sleeps and no open streams. */
function expectNothingLeft(world: World): void {
  if (hangsForEver(world) || world.lease.silenced) return;
  for (const process of world.processes) {
    if (!process.alive) continue;
    if (process.sleeping > 0) world.fault('sleepers left', `${process.name} has ${process.sleeping} sleeps left`);
    const open = world.network.openEnds(process);
    if (open > 0) world.fault('streams left', `${process.name} has ${open} streams open`);
  }
}

function expectOneRunner(world: World): void {
  const alive = [...world.guest.runners].filter(({ process }) => process.alive);
  if (alive.length > 1) world.fault('two runners', alive.map(({ name }) => name).join(' and '));
  if (alive.length === 0 && whyNobodyRuns(world) === undefined) {
    const states = [
      ...world.departures.map(
        ({ name, migration, process }) => `${name} ${process.alive ? migration.ownership : 'dead'}`,
      ),
      ...world.arrivals.map(({ name, incoming, process }) => `${name} ${process.alive ? incoming.ownership : 'dead'}`),
    ];
    world.fault('lost', `nobody runs the guest: ${states.join(', ')}`);
  }
}

/** Why the guest runs nowhere, if the engine is not to blame; else `undefined`. */
function whyNobodyRuns(world: World): string | undefined {
  const { guest, lease } = world;
  if (guest.ended) return 'the guest has ended';
  if (guest.pausedByUser) return 'its user has paused it';
  // The process of its last machine is dead, and the operator found no destination with all of the guest.
  if (!guest.home.process.alive) return 'died with its process';
  if (guest.home.stranded) return 'its VM failed';
  if (hangsForEver(world)) return 'a call hangs for ever';
  if (lease.silenced) return 'the authority is silent';
  return undefined;
}

function startsForEver({ strikes }: World): boolean {
  return strikes.some(
    ({ fault: { action, trigger } }) =>
      action.do === 'hang' &&
      action.ms === undefined &&
      !action.fails &&
      trigger.on === 'call' &&
      trigger.call === 'resume',
  );
}

function hangsForEver({ strikes }: World): boolean {
  return strikes.some(({ fault: { action } }) => action.do === 'hang' && action.ms === undefined && !action.fails);
}

function expectMemory(world: World): void {
  const { guest, machines } = world;
  for (const machine of machines) {
    const page = machine.memory.writtenUnmapped();
    if (page !== undefined && machine.process.alive) {
      world.fault('memory after abandon', `${machine.name}: block ${page.block} page ${page.page} was written`);
    }
    if (machine !== guest.home || !machine.running || !machine.process.alive) continue;
    const different = firstDifference(machine.buffers, guest.ram);
    if (different !== undefined) {
      world.fault(
        'memory differs',
        `${machine.name}: block ${different.block} page ${different.page} was changed under the running guest`,
      );
    }
  }
}

/** Checks that calls which had to be refused were refused, and that the VM is claimed afterwards only if it was handed over. */
function expectClaims(world: World): void {
  for (const { name, refusalDue, ending, process } of world.departures) {
    if (!refusalDue || !process.alive || ending === undefined) continue;
    if (ending.code === 'GODWIT_CLAIMED' || ending.code === 'GODWIT_HANDED_OVER') continue;
    world.fault('not refused', `${name}: ${ending.code ?? 'done'}, though its VM was another migration's`);
  }
  if (hangsForEver(world) || world.lease.silenced) return;
  for (const { vm, machine, process } of world.departures) {
    if (!process.alive) continue;
    const { state, waitingFor } = claimOf(vm);
    // An operator has taken the guest back from a VM that could not be started. The claim of such a VM stays idle, unless it
    // hands the guest over later.
    const handedOn = world.departures.some((one) => one.machine === machine && one.migration.ownership === 'released');
    const gone = world.guest.hasLived(machine) && world.guest.home !== machine && (handedOn || !machine.stranded);
    const wanted = gone ? 'handedOver' : 'idle';
    if (state !== wanted)
      world.fault('claim', `${machine.name}: the VM is "${state}", not "${wanted}" (${waitingFor.join(', ')})`);
  }
}
