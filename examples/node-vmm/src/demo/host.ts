/** The program of a host process: has at most one guest and carries out the controller's commands. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { GodwitError, type IncomingMigration, type LinkListener, type Migration, migrate, receive } from '@godwit/core';
import { connectTo, listenOn, recordTo, type TlsCredentials, transportFromUri } from '@godwit/transport';
import { onWorkers } from '@godwit/workers';
import type { CommandHandlers } from '../process/command-messages.js';
import { sendToParent, serveCommands } from '../process/serve-commands.js';
import { demoEvent } from './demo-event.js';
import { DemoGuest, type GuestSurroundings } from './demo-guest.js';
import { encodingsOf, knownEncodings } from './encodings.js';
import type { HostCommands, HostMessage } from './host-protocol.js';
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

    listen: async ({ on, tls, threads, blindTracker }) => {
      const listener = await listenOn(transportFromUri(on ?? (await this.#socketOfItsOwn()), tlsOptions(tls)));
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
      return listener.address;
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

    migrate: async ({ address, tls, downtimeLimitMs, maxBandwidth, verify, record, ...rest }) => {
      const guest = this.#running();
      const transport = transportFromUri(address, tlsOptions(tls));
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

    cancel: async ({ reason }) => {
      this.#migration?.cancel(reason);
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

  /** The URI of a UNIX socket in a folder that only this user can enter. */
  async #socketOfItsOwn(): Promise<string> {
    this.#socketDirectory = await mkdtemp(join(tmpdir(), 'godwit-'));
    return `unix:${join(this.#socketDirectory, 'migration.sock')}`;
  }

  async #stopListening(): Promise<void> {
    await this.#listener?.close();
    this.#listener = undefined;
    if (this.#socketDirectory !== undefined) await rm(this.#socketDirectory, { recursive: true, force: true });
    this.#socketDirectory = undefined;
  }
}

function tlsOptions(tls: TlsCredentials | undefined): { readonly tls?: TlsCredentials } {
  return tls === undefined ? {} : { tls };
}

function surroundings(blindTracker: string | undefined): GuestSurroundings {
  return {
    blindTracker,
    onConsole: (text) => send({ type: 'console', text }),
    onDefect: (message) => send({ type: 'defect', message }),
  };
}

function send(message: HostMessage): void {
  sendToParent(message);
}

const host = new Host();
serveCommands(host.handlers, () => host.close(), LAST_RESORT_MS);
// A terminal sends Ctrl-C to the whole process group; only the controller handles it.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => {});
