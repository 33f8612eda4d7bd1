/** The program of a host process: a VMM that carries out the controller's commands. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { GodwitError } from '@godwit/core';
import { recordTo, tcp, unix } from '@godwit/transport';
import type { CommandHandlers } from '../process/command-messages.js';
import { sendToParent, serveCommands } from '../process/serve-commands.js';
import { linksFrom, linksTo } from '../vmm/links.js';
import { policyFor } from '../vmm/policies.js';
import { Vmm } from '../vmm/vmm.js';
import { demoEvent } from './demo-event.js';
import type { Address, HostCommands, HostMessage } from './host-protocol.js';

/** How long closing may take before the process kills itself: it waits for vCPU threads, of which one may hang in the kernel. Milliseconds. */
const LAST_RESORT_MS = 3000;

/** How long to reconnect, in milliseconds: both hosts are processes of one machine, and one that is gone for longer does not come back. */
const RECONNECT_MS = 2000;

class Host {
  #vmm: Vmm | undefined;
  #socketDirectory: string | undefined;
  readonly handlers: CommandHandlers<HostCommands> = {
    boot: async ({ spec, blindTracker }) => {
      await this.#start(blindTracker).boot(spec);
      return null;
    },

    listen: async ({ transport, threads, blindTracker }) => {
      const vmm = this.#start(blindTracker);
      const address = await this.#listen(vmm, transport, threads);
      vmm.receive({ reconnectTimeoutMs: RECONNECT_MS, settleTimeoutMs: RECONNECT_MS });
      return address;
    },

    adopt: async () => {
      try {
        return await this.#theVmm().arrival();
      } finally {
        await this.#stopListening();
      }
    },

    migrate: async ({ address, maxBandwidth, maxRounds, policy, timeBudgetMs, workers, record, ...settings }) => {
      const transport =
        address.transport === 'tcp' ? tcp({ host: address.host, port: address.port }) : unix({ path: address.path });
      const connector = linksTo(transport, { workers });
      // A recording that fails is reported, and does not stop the migration.
      const onFailure = ({ code, message }: GodwitError): void =>
        send({ type: 'migration', event: { event: 'warning', code, message } });
      const recording = record === undefined ? undefined : await recordTo(record, { onFailure });
      const { migration } = this.#theVmm().depart(recording?.connector(connector) ?? connector, address.transport, {
        ...settings,
        bandwidthLimit: maxBandwidth,
        policy: policyFor(policy, maxRounds),
        ...(timeBudgetMs === undefined ? {} : { timeBudgetMs }),
        reconnectTimeoutMs: RECONNECT_MS,
        settleTimeoutMs: RECONNECT_MS,
      });
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
        await recording?.close().catch(() => {});
      }
    },

    cancel: async () => {
      this.#vmm?.departure?.migration.cancel('interrupted');
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
  }

  /** A VMM for each stay of the guest: what has moved away is gone. */
  #start(blindTracker: string | undefined): Vmm {
    this.#vmm = new Vmm({
      blindTracker,
      onConsole: (text) => send({ type: 'console', text }),
      onCrashed: ({ message }) => send({ type: 'defect', message }),
    });
    return this.#vmm;
  }

  #theVmm(): Vmm {
    this.#vmm ??= this.#start(undefined);
    return this.#vmm;
  }

  async #listen(vmm: Vmm, transport: 'tcp' | 'unix', threads: number): Promise<Address> {
    if (transport === 'tcp') {
      const listening = await linksFrom(tcp({ host: '127.0.0.1', port: 0 }), { threads });
      vmm.listen(listening);
      return { transport, host: '127.0.0.1', port: Number(new URL(listening.address).port) };
    }
    this.#socketDirectory = await mkdtemp(join(tmpdir(), 'godwit-'));
    const path = join(this.#socketDirectory, 'migration.sock');
    vmm.listen(await linksFrom(unix({ path }), { threads }));
    return { transport, path };
  }

  async #stopListening(): Promise<void> {
    await this.#vmm?.stopListening();
    if (this.#socketDirectory !== undefined) await rm(this.#socketDirectory, { recursive: true, force: true });
    this.#socketDirectory = undefined;
  }
}

function send(message: HostMessage): void {
  sendToParent(message);
}

const host = new Host();
serveCommands(host.handlers, () => host.close(), LAST_RESORT_MS);
// A terminal sends Ctrl-C to the whole process group; only the controller handles it.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => {});
