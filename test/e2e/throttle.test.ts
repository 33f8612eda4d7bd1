import { type ConvergencePolicy, type MigrationEvent, migrate, type RoundRecord, receive } from '@godwit/core';
import { hasKvm, Machine, type VirtualMachine } from '@godwit/example-node-vmm';
import { checkSweep, describeSweep, sweepImage, sweptBytes } from '@godwit/example-node-vmm/guest';
import { connectTo, listenOn, memory } from '@godwit/transport';
import { expect, jest, test } from '@jest/globals';
import { LiveGuest } from '../guest/live-guest.js';

jest.setTimeout(120_000);

const MIB = 2 ** 20;
const LIMIT_MS = 1000;
/**
 * Dirty pages that are few enough to switch over. The predicted downtime is not used: without a bandwidth limit, as in a switchover,
 * this link carries the whole guest in one burst.
 */
const FEW_PAGES = (8 * MIB) / 4096;
const BUDGET_MS = 60_000;
const SWEEP = { first: MIB, end: 65 * MIB };

/** Throttles the guest more after each round, until few pages are left. Rounds 1 to 3 are not throttled, and leave many pages. */
const throttleUntilItFits: ConvergencePolicy = ({ moment, outcome, throttle, canThrottle }) => {
  if (moment !== 'round-end') return undefined;
  if (outcome.newlyDirtyPages <= FEW_PAGES) return { action: 'switchover', reason: 'few pages are left' };
  if (!canThrottle) return { action: 'abort', reason: 'it cannot be throttled' };
  if (outcome.round < 3) return undefined;
  return { action: 'throttle', fraction: Math.min(0.99, throttle + 0.4), reason: 'many pages are left' };
};

/** Moves a guest within this process, at 32 MiB a second. */
async function move(
  machine: VirtualMachine,
  prepare: (description: unknown) => Promise<VirtualMachine>,
  policy: ConvergencePolicy,
) {
  const transport = memory();
  const links = await listenOn(transport);
  const events: MigrationEvent[] = [];
  try {
    const arrival = receive(links, { prepare });
    const migration = migrate(machine, connectTo(transport), {
      description: machine.description,
      downtimeLimitMs: LIMIT_MS,
      bandwidthLimit: 32 * MIB,
      timeBudgetMs: BUDGET_MS,
      policy,
      verify: true,
    });
    migration.subscribe({ next: (event) => events.push(event), error: () => {} });
    const [summary, { vm }] = await Promise.all([migration.result, arrival.result]);
    return { summary, events, arrived: vm as VirtualMachine };
  } finally {
    await links.close();
  }
}

const preCopies = (rounds: readonly RoundRecord[]) => rounds.filter(({ phase }) => phase === 'pre-copy');
const throttles = (events: readonly MigrationEvent[]) =>
  events.flatMap((event) => (event.type === 'throttle' ? [event.fraction] : []));

function told(rounds: readonly RoundRecord[]): void {
  const each = rounds.map(
    ({ round, throttle, newlyDirtyPages, totalMs }) =>
      `${round}: ${throttle.toFixed(2)} ${newlyDirtyPages} in ${totalMs.toFixed(0)} ms`,
  );
  process.stderr.write(`rounds, with the throttle and the pages that they left: ${each.join('; ')}\n`);
}

test('a guest that is held back more and less moves whole, and runs at full speed there', async () => {
  const guest = await LiveGuest.boot({ memoryBytes: 64 * MIB, vcpus: 2, workload: { workingSetBytes: 24 * MIB } });
  try {
    const upAndDown: ConvergencePolicy = ({ moment, outcome: { round } }) => {
      if (moment !== 'round-end') return undefined;
      const fraction = [0.5, 0.95, 0.2][round - 1];
      if (fraction === undefined) return { action: 'force', reason: 'after three fractions' };
      return { action: 'throttle', fraction, reason: `after round ${round}` };
    };
    const source = guest.machine;
    const { summary, events, arrived } = await move(source, (description) => guest.blank(description), upAndDown);
    await guest.moved(arrived);
    expect(summary.verified).toBe(true);
    expect(throttles(events)).toEqual([0.5, 0.95, 0.2, 0]);
    expect(source.heldMs().every((ms) => ms > 0)).toBe(true);
    expect(await guest.examine()).toEqual([]);
    expect(arrived.heldMs().every((ms) => ms === 0)).toBe(true);
  } finally {
    await guest.close();
  }
});

const SWEPT = 'the sweep guest, which leaves no page clean, is throttled until it moves';

(hasKvm() ? test : test.skip)(hasKvm() ? SWEPT : `${SWEPT} (skipped: no access to /dev/kvm)`, async () => {
  const bootImage = sweepImage(SWEEP);
  const source = await Machine.create({ memoryBytes: 96 * MIB, vcpus: 1, bootImage });
  const machines: VirtualMachine[] = [source];
  try {
    const swept = heardFrom(source);
    await source.resume();
    await swept;
    const { summary, events, arrived } = await move(
      source,
      async (description) => {
        const machine = await Machine.fromDescription(description);
        machines.push(machine);
        return machine;
      },
      throttleUntilItFits,
    );
    expect(summary.verified).toBe(true);
    expect(summary.totalMs - summary.verifyMs).toBeLessThan(BUDGET_MS);
    const rounds = preCopies(summary.rounds);
    told(rounds);
    for (const { round, throttle } of rounds) expect({ round, held: throttle > 0 }).toEqual({ round, held: round > 3 });
    expect(throttles(events).at(-1)).toBe(0);
    const sweptAgain = heardFrom(arrived);
    await sweptAgain;
    await arrived.pause();
    const report = checkSweep(sweptBytes(arrived.ram, SWEEP));
    expect(describeSweep(report)).toContain('pages right');
    expect(arrived.heldMs()).toEqual([0]);
  } finally {
    await Promise.all(machines.map((machine) => machine.close()));
  }
});

test('a throttled guest whose migration is given up runs on at full speed', async () => {
  const guest = await LiveGuest.boot({ memoryBytes: 64 * MIB, vcpus: 2, workload: { workingSetBytes: 24 * MIB } });
  try {
    expect(await guest.examine()).toEqual([]);
    const abandoned: VirtualMachine[] = [];
    const enough: ConvergencePolicy = ({ throttle, moment, outcome }) => {
      if (throttle === 0) return { action: 'throttle', fraction: 0.9, reason: 'for the test' };
      if (moment !== 'round-end' || outcome.round < 2) return undefined;
      return { action: 'abort', reason: 'for the test' };
    };
    await expect(
      move(
        guest.machine,
        async (description) => {
          const machine = await guest.blank(description);
          abandoned.push(machine);
          return machine;
        },
        enough,
      ),
    ).rejects.toMatchObject({ code: 'GODWIT_NOT_CONVERGING' });
    expect(await guest.examine()).toEqual([]);
    const held = guest.machine.heldMs();
    expect(held.every((ms) => ms > 0)).toBe(true);
    expect(await guest.examine()).toEqual([]);
    expect(guest.machine.heldMs()).toEqual(held);
    for (const machine of abandoned) expect(machine.state).toBe('closed');
  } finally {
    await guest.close();
  }
});

/** Resolves when the sweep guest prints its letter, which it does every 64 passes. */
function heardFrom(machine: VirtualMachine): Promise<void> {
  return new Promise((resolve) => {
    const subscription = machine.console.subscribe((text) => {
      if (!text.includes('B')) return;
      subscription.unsubscribe();
      resolve();
    });
  });
}
