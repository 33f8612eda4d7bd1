import type { Arrival, Departure } from './parties.js';
import type { World } from './world.js';

/** States of the destination's ownership in which the guest is the destination's, whether it runs or not. */
const ARRIVED: readonly string[] = ['running', 'settled', 'untold', 'recovered'];

/** Plays the operators: recovers a guest whose migration ended with its owner unknown, only as docs/switchover.md allows. */
export class Embedder {
  readonly #world: World;

  constructor(world: World) {
    this.#world = world;
  }

  /** Checks every migration once and recovers or resumes what can be. Resolves with whether anything was done. */
  async act(): Promise<boolean> {
    const { departures, arrivals } = this.#world;
    let acted = false;
    for (const arrival of arrivals) acted = (await this.#decideArrival(arrival)) || acted;
    for (const departure of departures) acted = (await this.#decideDeparture(departure)) || acted;
    return acted;
  }

  /** Resumes a guest that the user has paused, on its present machine. */
  unpause(): void {
    const { guest, arrivals, departures } = this.#world;
    const arrived = arrivals.findLast(
      ({ process, incoming, machine }) =>
        process.alive && machine !== undefined && ARRIVED.includes(incoming.ownership),
    );
    if (guest.ended || (!guest.pausedByUser && arrived?.machine?.leftPaused !== true)) return;
    const machine = arrived?.machine ?? guest.home;
    // A VMM whose `pause` has not returned would pause the guest again. The claim shows such a VMM.
    if (machine.heldByEngine) return;
    if (!machine.process.alive || machine.running || [...guest.runners].some(({ process }) => process.alive)) return;
    const own = departures.filter((departure) => departure.machine === machine && departure.ending !== undefined);
    if (own.some(({ migration }) => ['released', 'unknown', 'handedOver'].includes(migration.ownership))) return;
    guest.pausedByUser = false;
    machine.leftPaused = false;
    machine.resumeByUser();
  }

  /** Cancels every migration that has not ended. */
  cancelAll(): void {
    const { departures, arrivals } = this.#world;
    for (const { process, migration, ending } of departures)
      if (process.alive && ending === undefined) migration.cancel('enough');
    for (const { process, incoming, ending } of arrivals)
      if (process.alive && ending === undefined) incoming.cancel('enough');
  }

  async #decideDeparture(departure: Departure): Promise<boolean> {
    const { migration, process, ending, id, machine } = departure;
    if (!process.alive || ending === undefined || migration.ownership !== 'unknown') return false;
    const there = this.#world.arrivals.filter(({ migrationId, process }) => migrationId === id && process.alive);
    const mayRun = there.some(({ incoming }) => !['abandoned', 'stranded'].includes(incoming.ownership));
    if (mayRun) {
      this.#world.note(`${departure.name}: a person settles`);
      await Promise.race([migration.settle().catch(() => {}), this.#world.sleep(40_000)]);
      return true;
    }
    // Every process that may have had the guest is dead or will never run the guest. A VM that could not be started is
    // destroyed.
    for (const { machine: stranded } of there) stranded?.stop();
    this.#world.note(`${departure.name}: a person recovers the guest`);
    this.#world.lease.seize(undefined);
    machine.recovering = true;
    await Promise.race([
      migration.recover({ destinationIsDead: true }).catch(this.#refused(departure)),
      this.#world.sleep(5000),
    ]);
    machine.recovering = false;
    if ((migration.ownership as string) === 'recovered') machine.recovered();
    return true;
  }

  async #decideArrival(arrival: Arrival): Promise<boolean> {
    const { incoming, process, ending, migrationId, machine } = arrival;
    if (!process.alive || ending !== undefined || incoming.ownership !== 'ready' || machine === undefined) return false;
    const source = this.#world.departures.find(({ id }) => id === migrationId);
    if (source === undefined) return false;
    if (!source.process.alive) {
      if (this.#ranSince(source)) {
        this.#world.note(`${arrival.name}: the guest ran on at the dead source: a person cancels`);
        incoming.cancel('the guest has run on elsewhere');
        return true;
      }
      this.#world.note(`${arrival.name}: a person recovers the guest`);
      this.#world.lease.seize(this.#world.incarnations.get(source.id));
      await Promise.race([
        incoming.recover({ sourceIsDead: true }).catch(this.#refused(arrival)),
        this.#world.sleep(5000),
      ]);
    } else if (source.ending !== undefined && ['kept', 'recovered'].includes(source.migration.ownership)) {
      this.#world.note(`${arrival.name}: the source has kept the guest: a person cancels`);
      incoming.cancel('the source has kept the guest');
    } else {
      return false;
    }
    await this.#world.sleep(1);
    return true;
  }

  /** Whether the guest has run on any machine since the pause in which the destination's copy was made. */
  #ranSince({ machine, id }: Departure): boolean {
    const { guest, switchovers } = this.#world;
    return machine.pausedAt === undefined || switchovers.get(id) !== machine.pauses || guest.home !== machine;
  }

  #refused({ name }: Departure | Arrival): (error: unknown) => void {
    return (error) => this.#world.note(`${name}: ${String(error)}`);
  }
}
