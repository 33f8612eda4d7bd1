/** The program of a process with a machine of node-vmm, for the judge: carries out the parent's commands. */
import {
  type ConvergencePolicy,
  delta,
  type IncomingMigration,
  type LinkListener,
  type MigratableVm,
  type Migration,
  migrate,
  receive,
} from '@godwit/core';
import { Machine } from '@godwit/example-node-vmm';
import { sweepImage, sweptBytes } from '@godwit/example-node-vmm/guest';
import { type CommandHandlers, sendToParent, serveCommands } from '@godwit/example-node-vmm/process';
import { connectTo, file, listenOn, rehearse, tcp } from '@godwit/transport';
import {
  type ChannelThreads,
  channelThreads,
  type FaultThreads,
  faultThreads,
  onWorkers,
  pageChannelsFor,
} from '@godwit/workers';
import { randomMemory } from '../memory/random-memory.js';
import { DELTA_CACHE_BYTES, type Departure, type GuestSpec, now } from '../vmm.js';
import { type HostCommands, type HostMessage, LAST_RESORT_MS } from './host-messages.js';
import { neverRearmed } from './never-rearmed.js';
import { SweepSpeed } from './sweep-speed.js';

const MIB = 2 ** 20;
/** Time between two blocks of the main thread, in milliseconds. */
const BETWEEN_BLOCKS_MS = 5;

class Host {
  #machine: Machine | undefined;
  #vm: MigratableVm | undefined;
  #spec: GuestSpec | undefined;
  #listener: LinkListener | undefined;
  #incoming: IncomingMigration | undefined;
  #faults: FaultThreads | undefined;
  #threads: ChannelThreads | undefined;
  /** The number of letters that the guest has printed. */
  #printed = 0;
  /** The times at which the guest was paused and resumed: milliseconds since 1970, in order. */
  readonly #pausedAtMs: number[] = [];
  readonly #resumedAtMs: number[] = [];

  readonly handlers: CommandHandlers<HostCommands> = {
    start: async ({ spec, role, neverRearm }) => {
      this.#spec = spec;
      const { memoryBytes, sweep } = spec;
      // A sparse guest has 8 GiB and writes a sixteenth of it.
      const overcommit = !spec.random;
      const machine =
        role === 'source'
          ? await Machine.create({ memoryBytes, vcpus: 1, bootImage: sweepImage(sweep), overcommit })
          : await Machine.fromDescription({ kind: 'kvm', memoryBytes, vcpus: 1, boot: 'image' }, { overcommit });
      this.#machine = machine;
      this.#vm = neverRearm ? withoutRearming(machine) : machine;
      machine.console.subscribe((text) => {
        this.#printed += text.length;
        send({ type: 'printed', text });
      });
      machine.events.subscribe(({ type }) => {
        if (type === 'paused') this.#pausedAtMs.push(now());
        if (type === 'resumed') this.#resumedAtMs.push(now());
      });
      // Every VMM of node-vmm rehearses a migration while its guest runs, or while it waits for one.
      await rehearse();
      if (role === 'destination') return null;
      if (spec.random) fill(machine, memoryBytes);
      await machine.resume();
      this.#threads = channelThreads(pageChannelsFor(machine.memory) + 1, { postcopy: true });
      await this.#threads.ready();
      return null;
    },

    listen: async ({ settings: { channels, postcopyBytesPerSecond, blockedMs } }) => {
      const postcopy = postcopyBytesPerSecond !== undefined;
      if (postcopy) this.#faults = faultThreads();
      await this.#faults?.ready();
      const listening = await listenOn(tcp({ host: '127.0.0.1', port: 0 }));
      const threads = (channels === 'auto' ? 2 : channels) + (postcopy ? 1 : 0);
      this.#listener = threads > 0 ? onWorkers(listening, { threads }) : listening;
      this.#receive(this.#listener);
      const unblock = blockNowAndThen(blockedMs);
      if (this.#incoming !== undefined) this.#incoming.result.then(unblock, unblock);
      return listening.listener.port;
    },

    send: async ({ port, settings, patience }) => {
      const { channels, deltas, downtimeLimitMs, bytesPerSecond, postcopyBytesPerSecond, blockedMs } = settings;
      const postcopy = postcopyBytesPerSecond !== undefined;
      const connector = connectTo(tcp({ host: '127.0.0.1', port }));
      const startedAtMs = now();
      const pausesBefore = this.#pausedAtMs.length;
      const migration = migrate(
        this.#guest(),
        channels === 0 ? connector : onWorkers(connector, this.#threads && { threads: this.#threads }),
        {
          description: this.#theMachine().description,
          pageChannels: channels,
          downtimeLimitMs,
          bandwidthLimit: bytesPerSecond,
          ...(postcopy ? { postcopy, postcopyBandwidth: postcopyBytesPerSecond } : {}),
          ...(deltas ? { encodings: [delta({ cacheBytes: DELTA_CACHE_BYTES })] } : {}),
          ...(this.#vm === this.#machine ? {} : { policy: afterManyWrites(() => this.#printed) }),
        },
      );
      if (postcopy) migration.startPostcopy();
      const watched = watch(migration);
      const unblock = blockNowAndThen(blockedMs);
      const impatience = setTimeout(() => {
        watched.raised = true;
        migration.adjust({ downtimeLimitMs: patience.thenDowntimeLimitMs });
      }, patience.budgetMs);
      try {
        const summary = await migration.result;
        return {
          startedAtMs,
          pausedAtMs: this.#pausedAtMs.at(-1) ?? Number.NaN,
          pauses: this.#pausedAtMs.length - pausesBefore,
          endedByItself: !watched.raised,
          saidTotalMs: summary.totalMs,
          saidDowntimeMs: summary.downtimeMs,
          predictedDowntimeMs: watched.raised ? watched.predictedDowntimeMs : summary.predictedDowntimeMs,
          wireBytes: summary.wireBytes,
        } satisfies Departure;
      } finally {
        clearTimeout(impatience);
        unblock();
      }
    },

    arrival: async () => {
      await this.#incoming?.result;
      return this.#resumedAtMs[0] ?? Number.NaN;
    },

    faultLatencies: async () => {
      const { summary } = (await this.#incoming?.result) ?? {};
      return summary?.faults?.latencyDistribution ?? [];
    },

    speed: () => new SweepSpeed(this.#theMachine().ram, this.#spec?.sweep).measure(),

    reaches: async ({ speed }) => {
      await this.#incoming?.result;
      return new SweepSpeed(this.#theMachine().ram, this.#spec?.sweep).reaches(speed);
    },

    save: async ({ path }) => {
      await migrate(this.#guest(), connectTo(file({ path })), { description: this.#theMachine().description }).result;
      return null;
    },

    restore: async ({ path }) => {
      this.#listener = await listenOn(file({ path }));
      this.#receive(this.#listener);
      return null;
    },

    firstBytes: async () => {
      const machine = this.#theMachine();
      await machine.pause();
      return sweptBytes(machine.ram, this.#spec?.sweep);
    },
  };

  /** Frees everything, so that nothing keeps the process alive. */
  async close(): Promise<void> {
    this.#incoming?.cancel('the process ends');
    await Promise.allSettled([
      this.#incoming?.result,
      this.#listener?.close(),
      this.#faults?.close(),
      this.#threads?.close(),
    ]);
    await this.#machine?.close();
  }

  #receive(listener: LinkListener): void {
    const vm = this.#guest();
    // The machine is made before the source connects, as in a QEMU that waits for a guest.
    this.#incoming = receive(listener, { prepare: () => vm, ...(this.#faults && { faults: this.#faults }) });
  }

  #guest(): MigratableVm {
    if (this.#vm === undefined) throw new Error('there is no machine yet');
    return this.#vm;
  }

  #theMachine(): Machine {
    if (this.#machine === undefined) throw new Error('there is no machine yet');
    return this.#machine;
  }
}

/** Blocks this thread again and again, for `blockedMs` each time, without using a processor; returns a function that ends this. */
function blockNowAndThen(blockedMs = 0): () => void {
  if (blockedMs === 0) return () => {};
  const word = new Int32Array(new SharedArrayBuffer(4));
  const timer = setInterval(() => Atomics.wait(word, 0, 0, blockedMs), BETWEEN_BLOCKS_MS);
  return () => clearInterval(timer);
}

/** Keeps the predicted downtime of the last round before the limit is raised. */
function watch(migration: Migration): { raised: boolean; predictedDowntimeMs: number | undefined } {
  const watched = { raised: false, predictedDowntimeMs: undefined as number | undefined };
  migration.subscribe({
    next: (event) => {
      if (event.type === 'round' && !watched.raised) watched.predictedDowntimeMs = event.round.predictedDowntimeMs;
    },
    // `result` handles failures.
    error: () => {},
  });
  return watched;
}

/**
 * Switches over when the sweep guest has printed twice since round 2. In between it has written all its pages, which a dirty log that
 * is never re-armed does not report. After fewer rounds that defect loses nothing.
 */
function afterManyWrites(printed: () => number): ConvergencePolicy {
  let before: number | undefined;
  return ({ moment, outcome }) => {
    if (moment === 'round-end' && outcome.round >= 2) before ??= printed();
    return before !== undefined && printed() >= before + 2
      ? { action: 'switchover', reason: 'the guest has written all its pages since round 2' }
      : { action: 'continue', reason: 'the guest has not written all its pages since round 2' };
  };
}

function withoutRearming(machine: Machine): MigratableVm {
  return {
    memory: machine.memory,
    devices: machine.devices,
    trackers: machine.trackers.map((tracker) => neverRearmed(tracker, machine.memory)),
    pause: () => machine.pause(),
    resume: () => machine.resume(),
  };
}

function fill(machine: Machine, memoryBytes: number): void {
  for (const { address, bytes } of randomMemory(MIB, memoryBytes)) machine.ram.view(address, bytes.length).set(bytes);
}

function send(message: HostMessage): void {
  sendToParent(message);
}

const host = new Host();
serveCommands(host.handlers, () => host.close(), LAST_RESORT_MS);
