import { GodwitError, type LinkConnector, type MigrationEvent } from '@godwit/core';
import { file } from '@godwit/transport';
import type { Departure, DepartureSettings } from '../vmm/departure.js';
import type { HostedGuest } from '../vmm/hosted-guest.js';
import { linksTo } from '../vmm/links.js';
import { transportOf } from '../vmm/transport-of.js';
import type { Vmm } from '../vmm/vmm.js';
import { MoveFailed } from './control-error.js';
import type { MoveSummary } from './control-protocol.js';
import type { ControlHandlers } from './control-server.js';
import { statusOf } from './vmm-status.js';

/** Callbacks of a process for the end of its VMM. */
export interface VmmProcess {
  /** A migration from here begins. */
  departs(departure: Departure): void;
  /** The guest has left this VMM: it runs at the destination, or is in a file. */
  moved(to: string): void;
  quit(): void;
}

/** The handlers of a VMM for the commands of its control socket. */
export function handlersOf(vmm: Vmm, host: VmmProcess): ControlHandlers {
  const move = async (
    connector: LinkConnector,
    to: string,
    settings: DepartureSettings,
    emit: ((event: MigrationEvent) => void) | undefined,
  ): Promise<MoveSummary> => {
    await here();
    const departure = vmm.depart(connector, to, settings);
    host.departs(departure);
    departure.migration.subscribe((event) => {
      // The end of the migration is sent as the reply.
      if (event.type !== 'completed' && event.type !== 'failed') emit?.(event);
    });
    try {
      const { rounds, ...summary } = await departure.migration.result;
      return { to, ...summary, rounds: rounds.length };
    } catch (error) {
      throw new MoveFailed(GodwitError.wrap(error, 'GODWIT_INTERNAL', 'the migration failed'), departure.whereabouts);
    }
  };

  const underWay = (): Departure => {
    const { departure } = vmm;
    if (departure?.underWay === true) return departure;
    throw new GodwitError('GODWIT_INVALID_STATE', 'no migration from here is under way');
  };

  /**
   * Resolves with the guest once all of it is here, which may be later for a guest that runs at once or has just
   * arrived.
   */
  const here = async (): Promise<HostedGuest> => {
    const guest = vmm.requireGuest();
    await vmm.incoming?.result;
    return guest;
  };

  /** Resolves with the guest, unless a migration controls whether it runs. */
  const standing = async (): Promise<HostedGuest> => {
    const guest = await here();
    const { departure } = vmm;
    if (departure === undefined || (!departure.underWay && departure.whereabouts === 'here')) return guest;
    throw new GodwitError(
      'GODWIT_INVALID_STATE',
      'the guest is being moved, or was: only the migration runs and pauses it',
    );
  };

  return {
    status: async () => statusOf(vmm),

    migrate: async ({ to, tls, events, ...settings }, emit) => {
      const connector = linksTo(await transportOf(to, { tls }), { threads: vmm.threads });
      const summary = await move(connector, to, settings, events ? emit : undefined);
      host.moved(to);
      return summary;
    },

    cancel: async ({ reason = 'cancelled by a command' }) => {
      const { departure, incoming } = vmm;
      if (departure?.underWay === true) return { cancelled: departure.migration.cancel(reason) };
      if (incoming === undefined || incoming.state === 'completed' || incoming.state === 'failed') {
        throw new GodwitError('GODWIT_INVALID_STATE', 'no migration is under way');
      }
      return { cancelled: incoming.cancel(reason) };
    },

    adjust: async (adjustment) => {
      underWay().adjust(adjustment);
      return {};
    },

    switchover: async (options) => {
      underWay().migration.switchOver(options);
      return {};
    },

    postcopy: async () => {
      underWay().migration.startPostcopy();
      return {};
    },

    settle: async () => {
      const { departure } = vmm;
      if (departure === undefined) throw new GodwitError('GODWIT_INVALID_STATE', 'there was no migration from here');
      await departure.migration.settle();
      if (departure.whereabouts === 'there') host.moved(departure.to);
      return { guest: departure.whereabouts };
    },

    recover: async ({ peerIsDead }) => {
      if (!peerIsDead) {
        throw new GodwitError(
          'GODWIT_INVALID_ARGUMENT',
          'recover needs the word that the other side is dead: if it is not, the guest runs on both sides',
        );
      }
      const { departure, incoming } = vmm;
      if (departure !== undefined) await departure.migration.recover({ destinationIsDead: true });
      else if (incoming !== undefined) await incoming.recover({ sourceIsDead: true });
      else throw new GodwitError('GODWIT_INVALID_STATE', 'there was no migration, to or from here');
      return {};
    },

    snapshot: async ({ path, events, quit = false, live = false, ...settings }, emit) => {
      if (live && quit) {
        throw new GodwitError(
          'GODWIT_INVALID_ARGUMENT',
          'with live the guest goes on while it is saved, and with quit the VMM ends: what it does meanwhile would be lost; take one of the two',
        );
      }
      const background = live ? { background: vmm.protection } : {};
      const summary = await move(
        linksTo(file({ path })),
        path,
        { ...settings, ...background },
        events ? emit : undefined,
      );
      if (quit) host.moved(path);
      else if (!live) await vmm.goOn();
      return summary;
    },

    pause: async () => {
      await (await standing()).pause();
      return {};
    },

    resume: async () => {
      await (await standing()).resume();
      return {};
    },

    balloon: async ({ bytes }) => {
      (await here()).inflateBalloon(bytes);
      return {};
    },

    powerButton: async () => {
      (await here()).pressPowerButton();
      return {};
    },

    check: async () => (await standing()).check(),

    quit: async ({ force = false }) => {
      const { atStake, departure } = vmm;
      if (atStake !== undefined && !force) {
        const first = departure?.isFollowed === true ? 'wait until they have gone there' : 'settle it first';
        throw new GodwitError('GODWIT_INVALID_STATE', `${atStake}: ${first}, or quit with force`);
      }
      host.quit();
      return {};
    },
  };
}
