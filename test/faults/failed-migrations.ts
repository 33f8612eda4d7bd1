import { connect } from 'node:net';
import { GodwitError, type IncomingMigration, type Migration, migrate, receive } from '@godwit/core';
import type { VirtualMachine } from '@godwit/example-node-vmm';
import { connectTo, type ListeningLinks, listenOn, type TcpListener, tcp } from '@godwit/transport';
import { faulty } from '@godwit/transport/testing';
import type { LiveGuest } from '../guest/live-guest.js';
import { describeLeftovers, growth, type Leftovers, leftovers, settledLeftovers } from './leftovers.js';
import { atLeastRounds, TIMEOUTS } from './run-case.js';

const HOST = '127.0.0.1';

/** Failures before the count begins: V8's heap goes on growing for the first hundred. */
const WARM_UP = 100;

/** How a migration is made to fail. Each starts both sides and spoils it. */
type Spoil = (
  guest: LiveGuest,
  links: ListeningLinks<TcpListener>,
) => readonly [Migration, IncomingMigration | undefined];

const SPOILS: readonly Spoil[] = [
  ...(['setup', 'active'] as const).map(
    (state): Spoil =>
      (guest, links) => {
        const incoming = arrive(guest, links);
        const migration = leave(guest, links);
        migration.subscribe({ next: (e) => e.type === 'state' && e.state === state && migration.cancel() });
        return [migration, incoming];
      },
  ),
  // After the first round, with nobody listening any more.
  (guest, links) => {
    const incoming = arrive(guest, links);
    const migration = leave(guest, links);
    const subscription = migration.subscribe({
      next({ type }) {
        if (type !== 'round') return;
        subscription.unsubscribe();
        migration.cancel();
      },
    });
    return [migration, incoming];
  },
  // With the guest paused.
  (guest, links) => {
    const incoming = arrive(guest, links);
    const migration = leave(guest, links, { pauseBeforeSwitchover: true });
    migration.subscribe({
      next: (e) => e.type === 'state' && e.state === 'pre-switchover' && migration.cancel(),
    });
    return [migration, incoming];
  },
  // The destination gives up.
  (guest, links) => {
    const incoming = arrive(guest, links);
    incoming.subscribe({ next: ({ type }) => type === 'round' && incoming.cancel() });
    return [leave(guest, links), incoming];
  },
  // The destination refuses.
  (guest, links) => [
    leave(guest, links),
    receive(links, {
      prepare: () => {
        throw new GodwitError('GODWIT_OUT_OF_MEMORY', 'no room for another guest');
      },
    }),
  ],
  // Nobody listens.
  (guest) => [
    migrate(guest.machine, connectTo(tcp({ host: HOST, port: 1 })), {
      description: guest.machine.description,
      connectTimeoutMs: 50,
    }),
    undefined,
  ],
  // The link dies for good.
  (guest, links) => {
    const incoming = receive(links, {
      ...TIMEOUTS,
      reconnectTimeoutMs: 0,
      prepare: (description) => guest.blank(description),
    });
    const transport = faulty(tcp({ host: HOST, port: links.listener.port }), {
      faults: [{ kind: 'cut', direction: 'out', at: { frame: 6 } }],
    });
    const migration = migrate(guest.machine, connectTo(transport), {
      ...TIMEOUTS,
      reconnectTimeoutMs: 0,
      description: guest.machine.description,
    });
    return [migration, incoming];
  },
];

/**
 * Lets `count` migrations of the guest fail, in all the ways that there are, and then one succeed. Nothing may have grown
 * but what a garbage collector leaves lying about.
 */
export async function failedMigrations(guest: LiveGuest, count: number) {
  const problems: string[] = [];
  const codes = new Map<string, number>();
  const links = await listenOn(tcp({ host: HOST, port: 0 }));
  try {
    const fail = async (n: number) => {
      // A connection that brings no migration comes first.
      connect(links.listener.port, HOST)
        .on('error', () => {})
        .resume()
        .end('GET / HTTP/1.1\r\n\r\n');
      const spoil = SPOILS[n % SPOILS.length] as Spoil;
      const [migration, incoming] = spoil(guest, links);
      const [here] = await Promise.allSettled([migration.result]);
      // A destination that has not heard of the migration by now never will, and waits for another one.
      if (incoming?.state === 'none') incoming.cancel();
      await Promise.allSettled([incoming?.result]);
      if (here.status === 'fulfilled') problems.push(`failure ${n % SPOILS.length} succeeded`);
      else codes.set(codeOf(here.reason), (codes.get(codeOf(here.reason)) ?? 0) + 1);
      if (guest.machine.state !== 'running') problems.push(`failure ${n % SPOILS.length}: ${guest.machine.state}`);
    };
    // So that everything is loaded and compiled, and the heap has the size that it works with.
    for (let n = 0; n < WARM_UP; n++) await fail(n);
    codes.clear();
    const before = await leftovers();
    for (let n = 0; n < count; n++) await fail(n);
    const after = await settledLeftovers(before);
    compare(before, after, problems);
    const incoming = arrive(guest, links);
    const migration = leave(guest, links, { verify: true });
    const [{ verified }, { vm }] = await Promise.all([migration.result, incoming.result]);
    if (!verified) problems.push('the migration after them was not verified');
    await guest.moved(vm as VirtualMachine);
    problems.push(...(await guest.examine()));
    const endings = [...codes].map(([code, times]) => `${times} ${code}`).join(', ');
    return {
      problems,
      summary:
        `${count} failed migrations (${endings}), then one that is verified:\n` +
        `  before: ${describeLeftovers(before)}\n  after:  ${describeLeftovers(after)}`,
    };
  } finally {
    await links.close();
  }
}

function arrive(guest: LiveGuest, links: ListeningLinks<TcpListener>): IncomingMigration {
  return receive(links, { ...TIMEOUTS, prepare: (description) => guest.blank(description) });
}

function leave(
  guest: LiveGuest,
  links: ListeningLinks<TcpListener>,
  options: { readonly verify?: boolean; readonly pauseBeforeSwitchover?: boolean } = {},
): Migration {
  return migrate(guest.machine, connectTo(tcp({ host: HOST, port: links.listener.port })), {
    ...TIMEOUTS,
    ...options,
    description: guest.machine.description,
    policy: atLeastRounds(3),
  });
}

function compare(before: Leftovers, after: Leftovers, problems: string[]): void {
  problems.push(...growth(before, after));
  // The heap after a collection is what can be told from noise. Pages that V8 and the allocator keep grow by 20 MiB in a young
  // process, and then hardly; a hundred migrations that leave their buffers behind are more than 40.
  if (after.heapBytes > before.heapBytes + 4 * 2 ** 20) {
    problems.push(`the heap grew from ${before.heapBytes} to ${after.heapBytes} bytes`);
  }
  if (after.residentBytes > before.residentBytes + 40 * 2 ** 20) {
    problems.push(`resident memory grew from ${before.residentBytes} to ${after.residentBytes} bytes`);
  }
}

function codeOf(error: unknown): string {
  return GodwitError.is(error) ? error.code : String(error);
}
