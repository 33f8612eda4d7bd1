import { connect } from 'node:net';
import { GodwitError, type IncomingMigration, type Migration, migrate, receive } from '@godwit/core';
import type { VirtualMachine } from '@godwit/example-node-vmm';
import { connectTo, type ListeningLinks, listenOn, type TcpListener, tcp } from '@godwit/transport';
import { faulty } from '@godwit/transport/testing';
import type { LiveGuest } from '../guest/live-guest.js';
import { describeLeftovers, growth, type Leftovers, leftovers, settledLeftovers } from './leftovers.js';
import { atLeastRounds, SOURCE_TIMEOUTS, TIMEOUTS } from './run-case.js';

const HOST = '127.0.0.1';

/** Failed migrations before the count begins: V8's heap grows during the first hundred. */
const WARM_UP = 100;

/** Starts both sides of a migration and makes it fail. */
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
  // The link is lost after the first round, and the listener is closed.
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
  // No destination listens.
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
      ...SOURCE_TIMEOUTS,
      reconnectTimeoutMs: 0,
      description: guest.machine.description,
    });
    return [migration, incoming];
  },
];

/**
 * Lets `count` migrations of the guest fail, in every way of the list, and then one succeed. No resource may have grown, apart from
 * noise in the memory sizes.
 */
export async function failedMigrations(guest: LiveGuest, count: number) {
  const problems: string[] = [];
  const codes = new Map<string, number>();
  const links = await listenOn(tcp({ host: HOST, port: 0 }));
  try {
    const fail = async (n: number) => {
      // A connection without a migration is made first.
      connect(links.listener.port, HOST)
        .on('error', () => {})
        .resume()
        .end('GET / HTTP/1.1\r\n\r\n');
      const spoil = SPOILS[n % SPOILS.length] as Spoil;
      const [migration, incoming] = spoil(guest, links);
      const [here] = await Promise.allSettled([migration.result]);
      // A destination to which the source has not connected by now waits for another source: it is cancelled.
      if (incoming?.state === 'none') incoming.cancel();
      await Promise.allSettled([incoming?.result]);
      if (here.status === 'fulfilled') problems.push(`failure ${n % SPOILS.length} succeeded`);
      else codes.set(codeOf(here.reason), (codes.get(codeOf(here.reason)) ?? 0) + 1);
      if (guest.machine.state !== 'running') problems.push(`failure ${n % SPOILS.length}: ${guest.machine.state}`);
    };
    // Everything is then loaded and compiled, and the heap has its working size.
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
    ...SOURCE_TIMEOUTS,
    ...options,
    description: guest.machine.description,
    policy: atLeastRounds(3),
  });
}

function compare(before: Leftovers, after: Leftovers, problems: string[]): void {
  problems.push(...growth(before, after));
  // The heap is measured after a garbage collection and varies little. The pages that V8 and the allocator keep grow by 20 MiB in a new
  // process and little afterwards. A hundred migrations that leak their buffers are more than 40 MiB.
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
