import type { Action, Fault } from './fault.js';
import type { HostProcess } from './host-process.js';
import type { Strikes } from './injector.js';
import type { Machine } from './machine.js';
import type { Arrival, Departure } from './parties.js';
import type { World } from './world.js';

/** The address of the first destination. */
export const ADDRESS = 'd';
const OTHER_ADDRESS = 'e';

const SLOWNESS = 100;

/** Interval at which a user tries again to pause a guest that the engine holds. */
const USER_RETRY_MS = 5;

/** Carries out the faults of a world. */
export class Striker {
  readonly #world: World;
  readonly #destinations = new Map<
    string,
    { process: HostProcess; listener: ReturnType<World['network']['listener']> }
  >();

  constructor(world: World) {
    this.#world = world;
  }

  readonly strike: Strikes = ({ action }: Fault, when) => {
    if (when === 'now') this.#do(action);
    else queueMicrotask(() => this.#do(action));
  };

  /** Calls `receive` in the process that listens at `address`; starts one if there is none. */
  receive(address: string): Arrival {
    const { network } = this.#world;
    let destination = this.#destinations.get(address);
    if (destination?.process.alive !== true) {
      const process = this.#world.process(`${address}${this.#world.processes.length}`);
      destination = { process, listener: network.listener(process, address) };
      this.#destinations.set(address, destination);
    }
    return this.#world.arrive(destination.process, destination.listener);
  }

  #do(action: Action): void {
    const world = this.#world;
    if (world.over) return;
    const path = world.network.path(world.source, ADDRESS);
    const first = world.departures[0];
    const now = world.clock.now();
    switch (action.do) {
      case 'cut':
        path.cut(action.streams, action.delivered);
        break;
      case 'stall':
        for (const wire of path.wires(action.direction))
          wire.stalledUntil = Math.max(wire.stalledUntil, now + action.ms);
        break;
      case 'slow':
        for (const wire of path.wires('both')) wire.slowness = SLOWNESS;
        void world.sleep(action.ms).then(() => {
          for (const wire of path.wires('both')) wire.slowness = 1;
        });
        break;
      case 'partition':
        path.closedUntil = now + action.ms;
        path.refuses = action.refused;
        path.cut('all', false);
        break;
      case 'die':
        this.#die(action);
        break;
      case 'cancel':
        this.#cancel(action);
        break;
      case 'migrate again':
        if (first !== undefined && world.source.alive) this.#migrateAgain(action.vm, action.to, first);
        break;
      case 'migrate on':
        this.#migrateOn();
        break;
      case 'switch over':
        if (first !== undefined && world.source.alive) this.#switchOver(first, action.force);
        break;
      case 'adjust':
        if (first === undefined || !world.source.alive) break;
        first.migration.adjust({ downtimeLimitMs: action.downtimeLimitMs, bandwidthLimit: action.bandwidthLimit });
        first.asked.downtimeLimitMs = action.downtimeLimitMs;
        break;
      case 'user pause':
        this.#userPauses(action.ms, 20);
        break;
      case 'guest ends':
        this.#guestEnds();
        break;
      case 'garble':
      case 'hang':
        break;
    }
  }

  #die({ side, silent, restartAfterMs }: Extract<Action, { do: 'die' }>): void {
    const world = this.#world;
    const process = side === 'source' ? world.source : this.#destinations.get(ADDRESS)?.process;
    if (process?.alive !== true) return;
    kill(world, process, silent);
    if (side === 'destination' && restartAfterMs !== undefined) {
      world.after(restartAfterMs, () => void this.receive(ADDRESS));
    }
  }

  #cancel({ side, by }: Extract<Action, { do: 'cancel' }>): void {
    const world = this.#world;
    const party = side === 'source' ? world.departures[0] : world.arrivals[0];
    if (party?.process.alive !== true) return;
    if (by === 'signal') party.abort.abort(new Error('given up'));
    else if ('migration' in party) party.migration.cancel('a fault');
    else party.incoming.cancel('a fault');
  }

  #migrateAgain(kind: 'same' | 'twin' | 'same buffers', to: 'same' | 'other', { machine, vm }: Departure): void {
    const address = to === 'same' ? ADDRESS : OTHER_ADDRESS;
    const again = kind === 'same' ? vm : kind === 'twin' ? { ...vm } : machine.vm();
    if (to === 'other' || this.#destinations.get(ADDRESS)?.process.alive === true) this.receive(address);
    this.#world.depart(machine, again, address);
  }

  #migrateOn(): void {
    const arrival = this.#world.arrivals.findLast(
      ({ process, machine }) => process.alive && machine?.abandoned === false,
    );
    if (arrival?.machine === undefined || arrival.vm === undefined) return;
    this.receive(OTHER_ADDRESS);
    this.#world.depart(arrival.machine, arrival.vm, OTHER_ADDRESS);
  }

  #switchOver(departure: Departure, force: boolean): void {
    if (departure.ending !== undefined) return;
    try {
      departure.migration.switchOver({ force });
      if (force) departure.unbounded = true;
      else departure.forced = false;
    } catch {
      // The migration is past the point where this is allowed.
    }
  }

  /** Lets the user pause the guest for `ms`. While the engine holds it, tries again, `tries` times at most. */
  #userPauses(ms: number | undefined, tries: number): void {
    const { guest } = this.#world;
    const { home } = guest;
    if (guest.pausedByUser || guest.ended || tries === 0) return;
    if (!home.running || home.heldByEngine || !home.process.alive) {
      this.#world.after(USER_RETRY_MS, () => this.#userPauses(ms, tries - 1));
      return;
    }
    this.#world.note('the user pauses the guest');
    home.stop();
    guest.pausedByUser = true;
    if (ms !== undefined) this.#world.after(ms, () => this.#userResumes(home, 20));
  }

  #userResumes(home: Machine, tries: number): void {
    const { guest, departures } = this.#world;
    if (!guest.pausedByUser || tries === 0 || !home.process.alive) return;
    // A VMM refuses commands during a switchover and after a hand-over.
    const own = departures.filter(({ machine }) => machine === home);
    if (
      own.some(({ migration }) => !['running', 'kept', 'recovered'].includes(migration.ownership)) ||
      home.heldByEngine
    ) {
      this.#world.after(USER_RETRY_MS, () => this.#userResumes(home, tries - 1));
      return;
    }
    this.#world.note('the user resumes the guest');
    guest.pausedByUser = false;
    home.start();
  }

  #guestEnds(): void {
    const { guest } = this.#world;
    if (!guest.home.running) return;
    this.#world.note('the guest ends');
    guest.home.stop();
    guest.ended = true;
  }
}

/** Kills the process, and the guest in it. */
export function kill(world: World, process: HostProcess, silent: boolean): void {
  process.alive = false;
  for (const machine of world.machines) if (machine.process === process) machine.stop();
  world.network.died(process, silent);
}
