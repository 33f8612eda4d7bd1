/** The program of a host process: has at most one guest and carries out the controller's commands. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { GodwitError, type IncomingMigration, type LinkListener, type Migration, migrate, receive } from '@godwit/core';
import { connectTo, listenOn, recordTo, tcp, unix } from '@godwit/transport';
import { onWorkers } from '@godwit/workers';
import type { CommandHandlers } from '../process/command-messages.js';
import { sendToParent, serveCommands } from '../process/serve-commands.js';
import { demoEvent } from './demo-event.js';
import { DemoGuest, type GuestSurroundings } from './demo-guest.js';
import { encodingsOf, knownEncodings } from './encodings.js';
import type { Address, HostCommands, HostMessage } from './host-protocol.js';
import { policyFor } from './policies.js';

/** How long closing may take before the process kills itself: it waits for vCPU threads, of which one may hang in the kernel. Milliseconds. */
const LAST_RESORT_MS = 3000;

/** How long to reconnect, in milliseconds: both hosts are processes of one machine, and one that is gone for longer does not come back. */
const RECONNECT_MS = 2000;

class Host {
  #guest: DemoGuest | undefined;
  #migration: Migration | undefined;
  #listener: LinkListener | undefined;
  #incoming: IncomingMigration | undefined;
  #arriving: DemoGuest | undefined;
  #socketDirectory: string | undefined;
  readonly handlers: CommandHandlers<HostCommands> = {
    boot: async ({ spec, blindTracker }) => {
      this.#guest = await DemoGuest.boot(spec, surroundings(blindTracker));
      return null;
    },

    listen: async ({ transport, threads, watched, blindTracker }) => {
      const { address, listener } = await this.#listen(transport);
      this.#listener = threads > 0 ? onWorkers(listener, { threads }) : listener;
      this.#incoming = receive(this.#listener, {
        encodings: knownEncodings(),
        prepare: async (description) => {
          this.#arriving = await DemoGuest.arriving(description, surroundings(blindTracker));
          return this.#arriving.vm;
        },
        reconnectTimeoutMs: RECONNECT_MS,
        settleTimeoutMs: RECONNECT_MS,
      });
      if (watched) {
        this.#incoming.subscribe((event) =>
          send({ type: 'watched', atMs: now(), side: 'destination', event: plain(event) }),
        );
      }
      return address;
    },

    adopt: async () => {
      if (this.#incoming === undefined)
        throw new GodwitError('GODWIT_INVALID_STATE', 'this host does not listen: send the command "listen" first');
      try {
        const { summary } = await this.#incoming.result;
        this.#guest = this.#arriving;
        return summary;
      } finally {
        this.#arriving = undefined;
        this.#incoming = undefined;
        await this.#stopListening();
      }
    },

    migrate: async ({ address, downtimeLimitMs, maxBandwidth, verify, record, ...rest }) => {
      const guest = this.#running();
      const transport =
        address.transport === 'tcp' ? tcp({ host: address.host, port: address.port }) : unix({ path: address.path });
      const connector = rest.workers ? onWorkers(connectTo(transport)) : connectTo(transport);
      // A recording that fails is reported, and does not stop the migration.
      const onFailure = ({ code, message }: GodwitError): void =>
        send({ type: 'migration', event: { event: 'warning', code, message } });
      const recording = record === undefined ? undefined : await recordTo(record, { onFailure });
      const migration = migrate(guest.vm, recording?.connector(connector) ?? connector, {
        description: guest.description,
        downtimeLimitMs,
        bandwidthLimit: maxBandwidth,
        policy: policyFor(rest.policy, rest.maxRounds),
        ...(rest.timeBudgetMs === undefined ? {} : { timeBudgetMs: rest.timeBudgetMs }),
        verify,
        pageChannels: rest.pageChannels,
        encodings: encodingsOf(rest.encodings),
        reconnectTimeoutMs: RECONNECT_MS,
        settleTimeoutMs: RECONNECT_MS,
      });
      this.#migration = migration;
      if (rest.watched)
        migration.subscribe((event) => send({ type: 'watched', atMs: now(), side: 'source', event: plain(event) }));
      migration.subscribe({
        next: (event) => {
          const told = demoEvent(event);
          if (told !== undefined) send({ type: 'migration', event: told });
        },
        // Failures are handled by `result`.
        error: () => {},
      });
      try {
        return await migration.result;
      } finally {
        this.#migration = undefined;
        await recording?.close().catch(() => {});
      }
    },

    cancel: async () => {
      this.#migration?.cancel('interrupted');
      return null;
    },

    check: async () => this.#running().check(),

    memory: async () => ({ guestBytes: this.#guest?.allocatedBytes() ?? 0, residentBytes: process.memoryUsage.rss() }),

    release: async () => {
      const guest = this.#guest;
      this.#guest = undefined;
      await guest?.close();
      return null;
    },
  };

  /** Frees everything, so that nothing keeps the process alive. */
  async close(): Promise<void> {
    this.#migration?.cancel('the host is shutting down');
    this.#incoming?.cancel('the host is shutting down');
    await Promise.allSettled([this.#migration?.result, this.#incoming?.result]);
    await Promise.allSettled([this.#guest?.close(), this.#arriving?.close(), this.#stopListening()]);
  }

  #running(): DemoGuest {
    if (this.#guest === undefined) throw new GodwitError('GODWIT_INVALID_STATE', 'there is no guest at this host');
    return this.#guest;
  }

  async #listen(transport: 'tcp' | 'unix'): Promise<{ readonly address: Address; readonly listener: LinkListener }> {
    if (transport === 'tcp') {
      const listener = await listenOn(tcp({ host: '127.0.0.1', port: 0 }));
      return { listener, address: { transport, host: '127.0.0.1', port: listener.listener.port } };
    }
    this.#socketDirectory = await mkdtemp(join(tmpdir(), 'godwit-'));
    const path = join(this.#socketDirectory, 'migration.sock');
    return { listener: await listenOn(unix({ path })), address: { transport, path } };
  }

  async #stopListening(): Promise<void> {
    await this.#listener?.close();
    this.#listener = undefined;
    if (this.#socketDirectory !== undefined) await rm(this.#socketDirectory, { recursive: true, force: true });
    this.#socketDirectory = undefined;
  }
}

function surroundings(blindTracker: string | undefined): GuestSurroundings {
  return {
    blindTracker,
    onConsole: (text) => send({ type: 'console', text }),
    onDefect: (message) => send({ type: 'defect', message }),
  };
}

/** Milliseconds since 1970, as finely as the clock can tell: the same for all processes of this machine. */
function now(): number {
  return performance.timeOrigin + performance.now();
}

/** The event with its error as an object, which another process gets whole. */
function plain<E extends object>(event: E): E {
  const errors = Object.entries(event).filter(([, value]) => GodwitError.is(value));
  return { ...event, ...Object.fromEntries(errors.map(([name, error]) => [name, error.toJSON()])) };
}

function send(message: HostMessage): void {
  sendToParent(message);
}

const host = new Host();
serveCommands(host.handlers, () => host.close(), LAST_RESORT_MS);
// A terminal sends Ctrl-C to the whole process group; only the controller handles it.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => {});
