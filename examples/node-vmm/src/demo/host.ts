/** The program of a host process: a VMM that carries out the controller's commands. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { GodwitError } from '@godwit/core';
import { recordTo, type TlsCredentials, transportFromUri } from '@godwit/transport';
import type { CommandHandlers } from '../process/command-messages.js';
import { sendToParent, serveCommands } from '../process/serve-commands.js';
import { linksFrom, linksTo } from '../vmm/links.js';
import { PageFaultService } from '../vmm/page-fault-service.js';
import { policyFor } from '../vmm/policies.js';
import { Vmm } from '../vmm/vmm.js';
import { demoEvent } from './demo-event.js';
import type { HostCommands, HostMessage } from './host-protocol.js';

/** How long closing may take before the process kills itself: it waits for vCPU threads, of which one may hang in the kernel. Milliseconds. */
const LAST_RESORT_MS = 3000;

/**
 * How long to reconnect, in milliseconds: both hosts are processes of one machine, and a process that is gone for longer does not come
 * back.
 */
const RECONNECT_MS = 2000;

class Host {
  #vmm: Vmm | undefined;
  #socketDirectory: string | undefined;
  readonly #faults = new PageFaultService();
  readonly handlers: CommandHandlers<HostCommands> = {
    boot: async ({ spec, blindTracker, dirtyRing }) => {
      await this.#start(blindTracker, dirtyRing).boot(spec);
      return null;
    },

    listen: async ({ on, tls, threads, watched, blindTracker, dirtyRing }) => {
      const vmm = this.#start(blindTracker, dirtyRing);
      const transport = transportFromUri(on ?? (await this.#socketOfItsOwn()), tlsOptions(tls));
      const listening = await linksFrom(transport, { threads });
      vmm.listen(listening);
      const timeouts = { reconnectTimeoutMs: RECONNECT_MS, settleTimeoutMs: RECONNECT_MS };
      const incoming = vmm.receive({ ...timeouts, faults: this.#faults });
      incoming.subscribe((event) => {
        if (event.type === 'faults') send({ type: 'migration', event: { event: 'faults', ...event.faults } });
      });
      if (watched) {
        incoming.subscribe((event) => send({ type: 'watched', atMs: now(), side: 'destination', event: plain(event) }));
      }
      return listening.address;
    },

    adopt: async () => {
      try {
        return await this.#theVmm().arrival();
      } finally {
        await this.#stopListening();
      }
    },

    migrate: async ({
      address,
      tls,
      maxBandwidth,
      maxRounds,
      policy,
      timeBudgetMs,
      workers,
      record,
      watched,
      ...settings
    }) => {
      const vmm = this.#theVmm();
      const connector = linksTo(transportFromUri(address, tlsOptions(tls)), { workers, threads: vmm.threads });
      // A failed recording is reported, and does not stop the migration.
      const onFailure = ({ code, message }: GodwitError): void =>
        send({ type: 'migration', event: { event: 'warning', code, message } });
      const recording = record === undefined ? undefined : await recordTo(record, { onFailure });
      const { migration } = vmm.depart(recording?.connector(connector) ?? connector, address, {
        ...settings,
        bandwidthLimit: maxBandwidth,
        policy: policyFor(settings.postcopy ? (policy ?? 'hybrid') : policy, maxRounds),
        ...(timeBudgetMs === undefined ? {} : { timeBudgetMs }),
        reconnectTimeoutMs: RECONNECT_MS,
        settleTimeoutMs: RECONNECT_MS,
      });
      if (watched)
        migration.subscribe((event) => send({ type: 'watched', atMs: now(), side: 'source', event: plain(event) }));
      migration.subscribe({
        next: (event) => {
          const told = demoEvent(event);
          if (told !== undefined) send({ type: 'migration', event: told });
        },
        // `result` handles failures.
        error: () => {},
      });
      try {
        return await migration.result;
      } finally {
        await recording?.close().catch(() => {});
      }
    },

    cancel: async ({ reason }) => {
      this.#vmm?.departure?.migration.cancel(reason);
      return null;
    },

    check: async () => this.#theVmm().requireGuest().check(),

    memory: async () => ({
      guestBytes: this.#vmm?.guest?.allocatedBytes() ?? 0,
      residentBytes: process.memoryUsage.rss(),
    }),

    release: async () => {
      await this.#vmm?.release();
      this.#vmm = undefined;
      return null;
    },
  };

  /** Frees everything, so that nothing keeps the process alive. */
  async close(): Promise<void> {
    await this.#vmm?.close('the host is shutting down');
    await this.#stopListening();
    await this.#faults.close();
  }

  /** Makes a VMM for each stay of the guest, since a VMM whose guest has moved away cannot be used again. */
  #start(blindTracker: string | undefined, dirtyRing: boolean): Vmm {
    this.#vmm = new Vmm({
      blindTracker,
      dirtyRing,
      onConsole: (text) => send({ type: 'console', text }),
      onCrashed: ({ message }) => send({ type: 'defect', message }),
    });
    return this.#vmm;
  }

  #theVmm(): Vmm {
    this.#vmm ??= this.#start(undefined, false);
    return this.#vmm;
  }

  /** The URI of a UNIX socket in a folder that only this user can enter. */
  async #socketOfItsOwn(): Promise<string> {
    this.#socketDirectory = await mkdtemp(join(tmpdir(), 'godwit-'));
    return `unix:${join(this.#socketDirectory, 'migration.sock')}`;
  }

  async #stopListening(): Promise<void> {
    await this.#vmm?.stopListening();
    if (this.#socketDirectory !== undefined) await rm(this.#socketDirectory, { recursive: true, force: true });
    this.#socketDirectory = undefined;
  }
}

function tlsOptions(tls: TlsCredentials | undefined): { readonly tls?: TlsCredentials } {
  return tls === undefined ? {} : { tls };
}

/** Milliseconds since 1970, with the resolution of the clock; all processes of this machine share this time. */
function now(): number {
  return performance.timeOrigin + performance.now();
}

/** The event with its error as an object, which structured clone copies completely. */
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
