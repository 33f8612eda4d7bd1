import {
  claimOf,
  delta,
  firstOpinion,
  migrate,
  type OwnershipAuthority,
  receive,
  roundCap,
  timeBudget,
  withinDowntimeLimit,
} from '@godwit/core';
import { VirtualClock } from '@godwit/core/testing';
import { Random } from '../fuzz/random.js';
import type { Call, Fault } from './fault.js';
import { fill, Guest } from './guest.js';
import { HostProcess } from './host-process.js';
import { Injector, type Strike, type Strikes } from './injector.js';
import { Lease } from './lease.js';
import { type Delay, Machine, type MachineWatch } from './machine.js';
import { type Fate, Network, type Passing } from './network.js';
import { type Arrival, type Departure, endingOf } from './parties.js';
import type { Sabotage } from './sabotage.js';
import type { Schedule } from './schedule.js';

/** An invariant that did not hold. */
export interface Problem {
  readonly kind: string;
  readonly message: string;
  readonly atMs: number;
}

export interface WorldOptions {
  /** Whether a trace is kept. */
  readonly tracing?: boolean;
  readonly sabotage?: Sabotage;
}

/** How much longer than its limit the guest may be paused. Milliseconds. */
const BOUND_SLACK_MS = 50;

/** The policy's time budget: a migration that has not converged is forced then. Milliseconds. */
const BUDGET_MS = 8000;

/** States that the destination's ownership enters when the guest becomes its own. */
const ARRIVES: readonly string[] = ['running', 'recovered'];

/** States of the source's ownership in which the pause is checked. */
const BOUNDED: readonly string[] = ['running', 'paused', 'transferring', 'kept'];

/** A running schedule: its processes, machines, network and guest, and the checks of them. */
export class World implements MachineWatch {
  readonly schedule: Schedule;
  readonly clock = new VirtualClock();
  readonly network: Network;
  readonly guest: Guest<Machine>;
  readonly lease: Lease;
  readonly source: HostProcess;
  readonly home: Machine;
  readonly processes: HostProcess[] = [];
  readonly machines: Machine[] = [];
  readonly departures: Departure[] = [];
  readonly arrivals: Arrival[] = [];
  readonly strikes: Strike[] = [];
  readonly problems: Problem[] = [];
  readonly trace: string[] = [];
  /** The incarnation of the last destination, by migration id. */
  readonly incarnations = new Map<string, string>();
  /** By migration id: the pause of the source's machine (`Machine.pauses`) in which the destination's copy was made. */
  readonly switchovers = new Map<string, number>();
  over = false;
  /** Whether faults have stopped. */
  calm = false;
  /** Number of scheduled actions that have not run. */
  #coming = 0;
  /** Number of frames sent on all paths. */
  readonly sent = { forth: 0, back: 0 };
  #frames = 0;
  #lookedAt = -1;
  readonly #tracing: boolean;
  readonly sabotage: Sabotage;
  readonly #injector: Injector;
  readonly #act: Strikes;
  readonly #random: Random;
  #wake: () => void = () => {};

  constructor(
    schedule: Schedule,
    act: (world: World) => Strikes,
    { tracing = false, sabotage = {} }: WorldOptions = {},
  ) {
    this.schedule = schedule;
    this.#tracing = tracing;
    this.sabotage = sabotage;
    this.#random = new Random(schedule.seed ^ 0x0dd5);
    this.#act = act(this);
    this.#injector = new Injector(schedule.faults, (fault, when) => this.#strike(fault, when));
    this.network = new Network(this.clock, schedule.link, (passing) => this.#passing(passing));
    this.lease = new Lease(schedule.options.lease ?? [], (text) => this.note(text));
    this.source = this.process('source');
    this.home = new Machine(this.source, 'source', this);
    fill(this.home.buffers, schedule.filledPercent, schedule.seed);
    this.guest = new Guest(schedule.guest, schedule.seed, this.home);
    this.machines.push(this.home);
    if (!this.guest.pausedByUser) this.home.start();
    for (const { fault, ms } of this.#injector.timed()) {
      void this.clock.sleep(ms).then(() => this.#strike(fault, 'now'));
    }
  }

  #strike(fault: Fault, when: 'now' | 'behind'): void {
    if (this.calm || this.over) return;
    this.strikes.push({ fault, atMs: this.clock.now() });
    this.note(`FAULT ${JSON.stringify(fault.action)}`);
    this.#act(fault, when);
  }

  process(name: string): HostProcess {
    const process = new HostProcess(name, this.clock);
    this.processes.push(process);
    return process;
  }

  /** Returns a random number from 0 up to 1, exclusive. */
  readonly random = (): number => this.#random.next() / 2 ** 32;

  note(text: string): void {
    if (this.#tracing) this.trace.push(`${this.clock.now().toFixed(2).padStart(10)}  ${text}`);
  }

  readonly fault = (kind: string, message: string): void => {
    if (this.over) return;
    this.problems.push({ kind, message, atMs: this.clock.now() });
    this.note(`PROBLEM ${kind}: ${message}`);
  };

  sleep(ms: number): Promise<void> {
    return this.clock.sleep(ms);
  }

  quiet(): boolean {
    const quiet = this.#frames === this.#lookedAt;
    this.#lookedAt = this.#frames;
    return quiet;
  }

  called(machine: Machine, call: Call): Delay | undefined {
    if (call === 'resume') this.#checkPause(machine);
    return this.calm ? undefined : this.#injector.call(machine.side, call);
  }

  /** Runs `act` after `ms`, unless the world has ended by then. */
  after(ms: number, act: () => void): void {
    this.#coming++;
    void this.clock.sleep(ms).then(() => {
      this.#coming--;
      if (!this.over) act();
      this.#wake();
    });
  }

  /** Waits until `done` and no scheduled action is left, for at most `ms`. */
  async until(done: () => boolean, ms: number): Promise<void> {
    const timer = new AbortController();
    const end = this.clock.now() + ms;
    this.clock.sleep(ms, timer.signal).then(
      () => this.#wake(),
      () => {},
    );
    while (!(done() && this.#coming === 0) && this.clock.now() < end) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    timer.abort();
  }

  /** Whether all calls of living processes have settled. */
  get settled(): boolean {
    return [...this.departures, ...this.arrivals].every(
      ({ process, ending }) => !process.alive || ending !== undefined,
    );
  }

  depart(machine: Machine, vm: Departure['vm'], address: string): Departure {
    const { options } = this.schedule;
    const { process } = machine;
    const name = `migration ${this.departures.length}`;
    const id = (this.departures.length + 1).toString(16).padStart(32, '0');
    const abort = new AbortController();
    const refusalDue = claimOf(vm).state !== 'idle';
    this.note(`${name}: ${machine.name} -> ${address}${refusalDue ? ', to be refused' : ''}`);
    const connector = this.network.connector(process, address);
    const decide = firstOpinion(
      withinDowntimeLimit,
      roundCap(options.roundCap, 'switchover'),
      timeBudget(BUDGET_MS, 'switchover'),
    );
    const migration = migrate(
      this.sabotage.vm?.(vm, machine) ?? vm,
      this.sabotage.connector?.(connector, process) ?? connector,
      {
        clock: process.clock,
        random: this.random,
        migrationId: id,
        signal: abort.signal,
        progressIntervalMs: 0,
        keepaliveMs: 1000,
        silenceTimeoutMs: 3000,
        connectTimeoutMs: 1000,
        handshakeTimeoutMs: 2000,
        downtimeLimitMs: options.downtimeLimitMs,
        reconnectTimeoutMs: options.reconnectTimeoutMs,
        settleTimeoutMs: options.settleTimeoutMs,
        switchoverTimeoutMs: options.switchoverTimeoutMs,
        pageChannels: options.pageChannels,
        encodings: options.delta ? [delta()] : [],
        adaptiveEncodings: false,
        verify: options.verify,
        checksum: options.checksum,
        pauseBeforeSwitchover: options.heldMs !== undefined,
        policy: (input) => {
          const decision = decide(input);
          const forced = decision?.action === 'force' || (decision?.action === 'switchover' && decision.force === true);
          // A round that was ended early for a forced switchover is followed by it, unless the policy then decides otherwise.
          if (forced) departure.forced = true;
          else if (decision !== undefined && input.moment === 'round-end') departure.forced = false;
          return decision;
        },
        ...(options.pauseLimitMs === undefined ? {} : { pauseLimitMs: options.pauseLimitMs }),
        ...this.#authority(process),
      },
    );
    const departure: Departure = {
      name,
      id,
      process,
      machine,
      vm,
      address,
      migration,
      abort,
      refusalDue,
      ending: undefined,
      heldMs: 0,
      heldSince: undefined,
      unbounded: false,
      forced: false,
      asked: { downtimeLimitMs: options.downtimeLimitMs },
      downtimeLimitMs: options.downtimeLimitMs,
    };
    this.departures.push(departure);
    this.#watchDeparture(departure);
    return departure;
  }

  arrive(process: HostProcess, listener: Parameters<typeof receive>[0]): Arrival {
    const { options } = this.schedule;
    const abort = new AbortController();
    const name = `arrival ${this.arrivals.length}`;
    this.note(`${name}: ${process.name} receives`);
    const incoming = receive(listener, {
      clock: process.clock,
      random: this.random,
      signal: abort.signal,
      progressIntervalMs: 0,
      keepaliveMs: 1000,
      silenceTimeoutMs: 3000,
      handshakeTimeoutMs: 2000,
      reconnectTimeoutMs: options.reconnectTimeoutMs,
      settleTimeoutMs: options.settleTimeoutMs,
      onArrival: options.onArrival,
      ...(options.maximumDeviceState === undefined ? {} : { maximumDeviceState: options.maximumDeviceState }),
      ...this.#authority(process),
      prepare: (_, { migrationId }) => {
        const machine = new Machine(process, 'destination', this);
        this.machines.push(machine);
        machine.leftPaused = options.onArrival === 'pause';
        // The destination's memory begins with bytes that are not the guest's.
        fill(machine.buffers, 20, this.machines.length);
        arrival.machine = machine;
        arrival.vm = machine.vm();
        arrival.migrationId = migrationId;
        return this.sabotage.vm?.(arrival.vm, machine) ?? arrival.vm;
      },
    });
    const arrival: Arrival = {
      name,
      process,
      incoming,
      abort,
      machine: undefined,
      vm: undefined,
      migrationId: undefined,
      ending: undefined,
    };
    this.arrivals.push(arrival);
    const first = this.arrivals.length === 1;
    incoming.subscribe({
      next: (event) => {
        if (!process.alive || this.over) return;
        if (event.type !== 'ownership') return;
        this.note(`${name}: ${event.previous} -> ${event.ownership}`);
        if (ARRIVES.includes(event.ownership)) arrival.machine?.arrive();
        if (first) this.#injector.ownership('destination', event.ownership);
      },
      error: () => {},
    });
    void Promise.allSettled([incoming.result]).then(([settled]) => this.#ended(arrival, settled));
    return arrival;
  }

  #authority(process: HostProcess): { readonly authority?: OwnershipAuthority } {
    return this.schedule.options.lease === undefined ? {} : { authority: this.lease.for(process) };
  }

  #watchDeparture(departure: Departure): void {
    const { migration, process, name } = departure;
    const first = this.departures.length === 1;
    migration.subscribe({
      next: (event) => {
        if (!process.alive || this.over) return;
        if (event.type === 'ownership') {
          this.note(`${name}: ${event.previous} -> ${event.ownership}`);
          if (event.ownership === 'transferring') {
            this.#checkPause(departure.machine);
            if (this.schedule.options.lease !== undefined) departure.unbounded = true;
          }
          if (first) this.#injector.ownership('source', event.ownership);
        } else if (event.type === 'state') {
          this.note(`${name}: state ${event.state}`);
          if (event.state === 'pre-switchover') this.#hold(departure);
          else if (departure.heldSince !== undefined) this.#goOn(departure);
          if (first) this.#injector.state(event.state);
        } else if (event.type === 'went-back') {
          this.note(`${name}: went back from attempt ${event.attempt}: ${event.reason.message}`);
          departure.unbounded = false;
        } else if (event.type === 'switchover-start') {
          departure.downtimeLimitMs = departure.asked.downtimeLimitMs;
          this.note(`${name}: attempt ${event.attempt} begins, limit ${event.limitMs} ms`);
        } else if (event.type !== 'progress' && event.type !== 'round-start') {
          this.note(`${name}: ${event.type}${'message' in event ? ` ${event.code}: ${event.message}` : ''}`);
        }
      },
      error: () => {},
    });
    void Promise.allSettled([migration.result]).then(([settled]) => {
      this.#ended(departure, settled);
      if (!first || !process.alive) return;
      for (const { fault, ms } of this.#injector.afterResult()) this.after(ms, () => this.#strike(fault, 'now'));
    });
  }

  #ended(party: Departure | Arrival, settled: PromiseSettledResult<unknown>): void {
    if (!party.process.alive) return;
    party.ending = endingOf(settled, this.clock.now());
    this.note(`${party.name}: ${party.ending.code ?? 'done'} ${party.ending.message}`);
    this.#wake();
  }

  /** Keeps the migration in `pre-switchover` for a while. */
  #hold(departure: Departure): void {
    departure.heldSince = this.clock.now();
    departure.heldMs = 0;
    void this.clock.sleep(this.schedule.options.heldMs ?? 0).then(() => {
      if (!departure.process.alive || departure.heldSince === undefined || this.over) return;
      try {
        departure.migration.proceed();
      } catch {
        // The migration has ended meanwhile.
      }
    });
  }

  #goOn(departure: Departure): void {
    departure.heldMs = this.clock.now() - (departure.heldSince ?? this.clock.now());
    departure.heldSince = undefined;
  }

  #passing({ path, direction, stage, frame, channel }: Passing): Fate {
    this.#frames++;
    if (stage === 'sent') this.sent[direction]++;
    if (this.#tracing) this.note(`  ${direction} ${stage}${channel === -1 ? '' : ` #${channel}`} ${inShort(frame)}`);
    if (frame.type === 'welcome' || (frame.type === 'switchover' && stage === 'arrived')) {
      const departure = this.departures.findLast(
        ({ process, address }) => process === path.source && address === path.address,
      );
      if (departure === undefined) return 'pass';
      if (frame.type === 'welcome') this.incarnations.set(departure.id, frame.incarnation);
      else this.switchovers.set(departure.id, departure.machine.pauses);
    }
    const sabotaged = this.sabotage.passing?.(direction, stage, frame, channel);
    if (sabotaged !== undefined) return sabotaged;
    if (this.calm || path.source !== this.source || path.address !== 'd') return 'pass';
    return this.#injector.frame(direction, stage, frame);
  }

  /** Checks that the pause that ends now was not too long: the guest is resumed, or handed over. */
  #checkPause(machine: Machine): void {
    if (machine.pausedAt === undefined || this.schedule.options.verify) return;
    const departure = this.departures.findLast((one) => one.machine === machine && !one.refusalDue);
    if (departure === undefined || departure.unbounded || departure.forced) return;
    // After the hand-over an operator decides about the guest.
    if (!BOUNDED.includes(departure.migration.ownership)) return;
    if (departure.heldSince !== undefined) this.#goOn(departure);
    const ms = this.clock.now() - machine.pausedAt - departure.heldMs;
    departure.heldMs = 0;
    const limit = this.schedule.options.pauseLimitMs ?? Math.max(2 * departure.downtimeLimitMs, 500);
    if (ms > limit + BOUND_SLACK_MS) {
      this.fault('paused too long', `${machine.name}: ${ms.toFixed(1)} ms, and the bound is ${limit} ms`);
    }
  }
}

function inShort(frame: Passing['frame']): string {
  const { type, ...rest } = frame;
  return `${type} ${JSON.stringify(rest).slice(0, 120)}`;
}
