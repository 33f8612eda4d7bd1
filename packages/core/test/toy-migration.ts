import {
  type ConvergencePolicy,
  type IncomingEvent,
  type IncomingMigration,
  type LinkConnector,
  type LinkListener,
  type MigratableVm,
  type MigrateOptions,
  type Migration,
  type MigrationEvent,
  type MigrationState,
  type MigrationSummary,
  migrate,
  type Received,
  type ReceiveOptions,
  receive,
} from '@godwit/core';
import { type MemoryLink, type MemoryLinkOptions, memoryLink, ToyVm, VirtualClock } from '@godwit/core/testing';
import { expect } from '@jest/globals';

/** A generator of 32-bit numbers that is the same for the same seed (Mulberry32, T. Ettinger). */
export function random(seed: number): () => number {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return (t ^ (t >>> 14)) >>> 0;
  };
}

export const PAGE = 4096;
export const BLOCKS = [{ id: 'ram', guestPhysicalAddress: 0, byteLength: 64 * PAGE }];

/** Milliseconds of virtual time after which a migration that has not ended is given up: it would spin for ever. */
const PATIENCE_MS = 1_800_000;

export interface ToyOptions {
  /** Default: that of `migrate`, else a new one. */
  readonly clock?: VirtualClock;
  readonly source?: ToyVm;
  readonly destination?: ToyVm;
  readonly link?: MemoryLinkOptions;
  readonly migrate?: MigrateOptions;
  readonly receive?: Partial<ReceiveOptions>;
  readonly connector?: LinkConnector;
  readonly listener?: LinkListener;
  readonly prepare?: (destination: ToyVm) => MigratableVm | Promise<MigratableVm>;
}

export interface Toy {
  readonly clock: VirtualClock;
  readonly source: ToyVm;
  readonly destination: ToyVm;
  readonly link: MemoryLink;
  readonly migration: Migration;
  readonly incoming: IncomingMigration;
  readonly events: MigrationEvent[];
  readonly incomingEvents: IncomingEvent[];
  /** Ends the subscription to the migration that `events` is made of. */
  unsubscribe(): void;
  /** Waits for both ends; cancels them, and rejects, when they do not come within half an hour of virtual time. */
  settled(): Promise<Ends>;
}

export interface Ends {
  readonly sent: PromiseSettledResult<MigrationSummary>;
  readonly received: PromiseSettledResult<Received>;
  /** Code of the source's failure; `undefined` when it succeeded. */
  readonly code: string | undefined;
  readonly receivedCode: string | undefined;
}

/** Switches over after so many rounds, whatever is predicted, and within the bound: unlike `roundCap`, at no price. */
export function switchAfter(rounds: number): ConvergencePolicy {
  return ({ outcome }) =>
    outcome.round >= rounds ? { action: 'switchover', reason: `${rounds} rounds are enough` } : undefined;
}

/** A source with every second page of its first block filled. */
export function filledVm(blocks = BLOCKS): ToyVm {
  const vm = new ToyVm(blocks);
  for (let page = 0; page < 64; page += 2) vm.write(0, page * PAGE, new Uint8Array(PAGE).fill(page + 1));
  return vm;
}

/** Starts a migration between two toy VMs over memory, under a virtual clock. */
export function start(options: ToyOptions = {}): Toy {
  const { clock: given } = options.migrate ?? {};
  const clock = options.clock ?? (given instanceof VirtualClock ? given : new VirtualClock());
  const source = options.source ?? filledVm();
  const destination = options.destination ?? new ToyVm(BLOCKS, { running: false });
  const link = memoryLink({ clock, ...options.link });
  const prepare = options.prepare ?? ((vm: ToyVm) => vm);
  const incoming = receive(options.listener ?? link.listener, {
    prepare: () => prepare(destination),
    clock,
    ...options.receive,
  });
  const migration = migrate(source, options.connector ?? link.connector, { clock, ...options.migrate });
  const events: MigrationEvent[] = [];
  const incomingEvents: IncomingEvent[] = [];
  const subscription = migration.subscribe((event) => events.push(event));
  incoming.subscribe((event) => incomingEvents.push(event));
  return {
    clock,
    source,
    destination,
    link,
    migration,
    incoming,
    events,
    incomingEvents,
    unsubscribe: () => subscription.unsubscribe(),
    async settled() {
      const over = new AbortController();
      const late = clock.sleep(PATIENCE_MS, over.signal).then(() => {
        migration.cancel('it does not end');
        incoming.cancel('it does not end');
        throw new Error(`it does not end: ${migration.state}, ${migration.ownership}; ${incoming.ownership}`);
      });
      late.catch(() => {});
      const [sent, received] = await Promise.race([Promise.allSettled([migration.result, incoming.result]), late]);
      over.abort();
      return { sent, received, code: codeOf(sent), receivedCode: codeOf(received) };
    },
  };
}

export function codeOf(result: PromiseSettledResult<unknown>): string | undefined {
  return result.status === 'fulfilled' ? undefined : (result.reason as { code?: string }).code;
}

export function states(events: readonly MigrationEvent[]): MigrationState[] {
  return events.flatMap((event) => (event.type === 'state' ? [event.state] : []));
}

/** The guest came over: every byte, and only one side runs. */
export function expectMoved(toy: Toy, ends: Ends): void {
  expect(ends.code).toBeUndefined();
  expect(ends.receivedCode).toBeUndefined();
  expect(toy.source.memory.firstDifference(toy.destination.memory)).toBeUndefined();
  expect([toy.source.running, toy.destination.running]).toEqual([false, true]);
  expect(toy.migration.state).toBe('completed');
  expect(toy.incoming.state).toBe('completed');
  expect(toy.link.openStreams).toBe(0);
  // What was predicted as a whole is what was predicted of the parts.
  const { predictedDowntimeMs, downtime } = (ends.sent as PromiseFulfilledResult<MigrationSummary>).value;
  const parts = Object.values(downtime).map(({ predictedMs }) => predictedMs);
  expect(predictedDowntimeMs).toBeCloseTo(
    parts.reduce((sum, ms) => sum + ms, 0),
    6,
  );
}

/** The guest stayed: it runs at the source, the destination has let go, and nothing is left open. */
export function expectStayed(toy: Toy, ends: Ends, code?: string): void {
  if (code !== undefined) expect(ends.code).toBe(code);
  expect(ends.sent.status).toBe('rejected');
  expect([toy.source.running, toy.destination.running]).toEqual([true, false]);
  expect(['failed', 'cancelled']).toContain(toy.migration.state);
  expect(toy.link.openStreams).toBe(0);
}
