/** The program of a host: it has at most one guest, whose writes are logged in dirty rings, and carries out its parent's commands. */
import {
  firstOpinion,
  type IncomingMigration,
  type LinkListener,
  migrate,
  type RoundRecord,
  receive,
  roundCap,
  withinDowntimeLimit,
} from '@godwit/core';
import type { VirtualMachine } from '@godwit/example-node-vmm';
import { type CommandHandlers, serveCommands } from '@godwit/example-node-vmm/process';
import { connectTo, listenOn, tcp } from '@godwit/transport';
import { LiveGuest } from '../guest/live-guest.js';
import { type HostCommands, LAST_RESORT_MS, type Moved } from './host-messages.js';

const MOST_ROUNDS = 20;
const PAUSE_LIMIT_MS = 10_000;

class Host {
  #guest: LiveGuest | undefined;
  #arrival:
    | { readonly guest: LiveGuest; readonly links: LinkListener; readonly incoming: IncomingMigration }
    | undefined;

  readonly handlers: CommandHandlers<HostCommands> = {
    boot: async (config) => {
      this.#guest = await LiveGuest.boot(config);
      return null;
    },

    listen: async ({ dirtyRing }) => {
      const links = await listenOn(tcp({ host: '127.0.0.1', port: 0 }));
      const guest = new LiveGuest();
      const incoming = receive(links, { prepare: (description) => guest.blank(description, { dirtyRing }) });
      this.#arrival = { guest, links, incoming };
      return links.listener.port;
    },

    send: async ({ port }) => {
      const guest = this.#guest;
      if (guest === undefined) throw new Error('there is no guest here');
      const { description } = guest.machine;
      const migration = migrate(guest.machine, connectTo(tcp({ host: '127.0.0.1', port })), {
        ...{ description, verify: true, downtimeLimitMs: 200, pauseLimitMs: PAUSE_LIMIT_MS },
        // The guest has to move on a busy host too: the test is about which pages arrive, not about how soon.
        policy: firstOpinion(withinDowntimeLimit, roundCap(MOST_ROUNDS, 'switchover')),
      });
      const summary = await migration.result;
      this.#guest = undefined;
      await guest.close();
      const { verified, downtimeMs, totalMs, rounds } = summary;
      return { verified, downtimeMs, totalMs, rounds: rounds.length, ...ringOf(rounds) };
    },

    adopt: async () => {
      const arrival = this.#arrival;
      if (arrival === undefined) throw new Error('nothing is to arrive here');
      this.#arrival = undefined;
      const { vm } = await arrival.incoming.result;
      await arrival.links.close();
      await arrival.guest.moved(vm as VirtualMachine);
      this.#guest = arrival.guest;
      return arrival.guest.examine();
    },
  };

  async close(): Promise<void> {
    this.#arrival?.incoming.cancel('the host ends');
    await Promise.allSettled([this.#arrival?.incoming.result]);
    await Promise.allSettled([this.#guest?.close(), this.#arrival?.guest.close(), this.#arrival?.links.close()]);
  }
}

function ringOf(rounds: readonly RoundRecord[]): Pick<Moved, 'ringPages' | 'failures' | 'ringFull'> {
  const harvests = rounds.flatMap(({ trackers }) => trackers.filter(({ name }) => name === 'kvm-ring'));
  return {
    ringPages: harvests.reduce((sum, { dirtyPages }) => sum + dirtyPages, 0),
    failures: harvests.filter(({ failed }) => failed).length,
    ringFull: harvests.reduce((sum, { vcpus = [] }) => sum + vcpus.reduce((all, vcpu) => all + vcpu.ringFull, 0), 0),
  };
}

const host = new Host();
serveCommands(host.handlers, () => host.close(), LAST_RESORT_MS);
