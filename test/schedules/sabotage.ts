import type { Frame, LinkConnector, MigratableDevice, MigratableVm } from '@godwit/core';
import type { Direction, Stage } from './fault.js';
import type { HostProcess } from './host-process.js';
import { JournalDevice } from './journal-device.js';
import type { Machine } from './machine.js';
import type { Fate } from './network.js';

/** A deliberate defect between the engine and its VM or link: it does what an engine with that defect would do. */
export interface Sabotage {
  vm?(vm: MigratableVm, machine: Machine): MigratableVm;
  connector?(connector: LinkConnector, process: HostProcess): LinkConnector;
  passing?(direction: Direction, stage: Stage, frame: Frame, channel: number): Fate | undefined;
}

export interface SabotageKind {
  /** The kind of problem that the harness must report for it. */
  readonly caughtAs: string;
  /** Makes a new one for each schedule. */
  readonly make: () => Sabotage;
}

/** All sabotages by name. The harness must notice each. */
export const SABOTAGES: Readonly<Record<string, SabotageKind>> = {
  'a page is lost, and the counts are made to fit': { caughtAs: 'memory differs', make: lostPage },
  'a tracker is blind to a page': { caughtAs: 'memory differs', make: blindTracker },
  'dirty pages of a harvest are forgotten': { caughtAs: 'memory differs', make: forgottenHarvest },
  'a page is written late, under the running guest': { caughtAs: 'memory differs', make: latePage },
  'the last of a device is lost': { caughtAs: 'device differs', make: tornDevice },
  'the source resumes after the hand-over': { caughtAs: 'two runners', make: resumeTwice },
  'what should be an error is a go': { caughtAs: 'two runners', make: strayGo },
  'a guest that its user paused is resumed': { caughtAs: 'paused guest runs', make: pausedRuns },
  'resume does not run the guest': { caughtAs: 'lost', make: neverRuns },
  'the source resumes its guest late': { caughtAs: 'paused too long', make: lateResume },
  'nobody hears which pages load has written': { caughtAs: 'memory differs', make: lostOwed },
  'memory is written after abandon': { caughtAs: 'memory after abandon', make: writtenUnmapped },
  'a connection is left open': { caughtAs: 'streams left', make: leftStream },
  'a timer is left': { caughtAs: 'sleepers left', make: leftSleeper },
  'an error that nobody handles': { caughtAs: 'unhandled rejection', make: unhandledError },
  'pause is called twice at once': { caughtAs: 'called too early', make: pausedTwice },
};

function lostPage(): Sabotage {
  const lost = new Map<number, number>();
  let lostInAll = 0;
  return {
    passing: (_, stage, frame, channel) => {
      if (stage !== 'sent') return undefined;
      if (frame.type === 'pages' && lostInAll === 0) {
        for (let i = 1; i < frame.runs.length; i += 2) lostInAll += frame.runs[i] as number;
        lost.set(channel, lostInAll);
        return 'lost';
      }
      if (frame.type === 'roundEnd' && lost.has(channel)) {
        change(frame, frame.pages - (lost.get(channel) ?? 0));
        lost.delete(channel);
      }
      if (frame.type === 'roundAck' && frame.round === 1) change(frame, frame.pages + lostInAll);
      return undefined;
    },
  };
}

function change(frame: { pages: number }, pages: number): void {
  frame.pages = pages;
}

function blindTracker(): Sabotage {
  return {
    vm: (vm) => ({
      ...vm,
      trackers: vm.trackers.map((tracker) => ({
        ...named(tracker),
        harvest: async (into) => {
          const had = into.at(0).has(1);
          await tracker.harvest(into);
          if (!had) into.at(0).clearRange(1, 1);
        },
      })),
    }),
  };
}

function forgottenHarvest(): Sabotage {
  let harvests = 0;
  return {
    vm: (vm) => ({
      ...vm,
      trackers: vm.trackers.map((tracker) => ({
        ...named(tracker),
        harvest: async (into) => {
          await tracker.harvest(into);
          if (++harvests === 1) into.clearAll();
        },
      })),
    }),
  };
}

/** Copies a tracker's methods into a plain object, whose methods can be replaced. */
function named(tracker: MigratableVm['trackers'][number]): MigratableVm['trackers'][number] {
  return {
    name: tracker.name,
    start: () => tracker.start(),
    harvest: (into) => tracker.harvest(into),
    ...(tracker.rearm !== undefined ? { rearm: tracker.rearm } : {}),
    stop: () => tracker.stop(),
  };
}

function latePage(): Sabotage {
  return {
    vm: (vm, { side, buffers, process }) => ({
      ...vm,
      resume: async () => {
        await vm.resume();
        if (side === 'destination') void process.delay(1).then(() => flip(buffers.blocks[0]?.bytes));
      },
    }),
  };
}

function tornDevice(): Sabotage {
  return {
    vm: (vm) => ({
      ...vm,
      devices: vm.devices.map((device): MigratableDevice => {
        if (!(device instanceof JournalDevice)) return device;
        const { id, version, precopy, restart, reset, loadWrites, prepared } = device;
        return {
          id,
          version,
          ...(precopy !== undefined ? { precopy } : {}),
          ...(restart !== undefined ? { restart } : {}),
          ...(reset !== undefined ? { reset } : {}),
          ...(prepared !== undefined ? { prepared } : {}),
          ...(loadWrites !== undefined ? { loadWrites } : {}),
          release: () => device.release(),
          save: (signal) => device.save(signal),
          load: async (state) => {
            await device.load(state);
            device.journal.pop();
          },
        };
      }),
    }),
  };
}

function resumeTwice(): Sabotage {
  let source: Machine | undefined;
  return {
    vm: (vm, machine) => {
      if (machine.side === 'source') source = machine;
      return {
        ...vm,
        resume: async () => {
          await vm.resume();
          if (machine.side === 'destination') await source?.resume();
        },
      };
    },
  };
}

function strayGo(): Sabotage {
  return {
    passing: (direction, _, frame) =>
      direction === 'forth' && (frame.type === 'error' || frame.type === 'back')
        ? { type: 'go', attempt: 1 }
        : undefined,
  };
}

function pausedRuns(): Sabotage {
  return { vm: (vm) => ({ ...vm, runState: () => 'running' as const }) };
}

function neverRuns(): Sabotage {
  return {
    vm: (vm, machine) => ({
      ...vm,
      resume: async () => {
        await vm.resume();
        machine.stop();
      },
    }),
  };
}

function lateResume(): Sabotage {
  return {
    vm: (vm, { process, side }) => ({
      ...vm,
      resume: async () => {
        if (side === 'source') await process.delay(100);
        await vm.resume();
      },
    }),
  };
}

function lostOwed(): Sabotage {
  return { passing: (_, __, frame) => (frame.type === 'owed' ? 'lost' : undefined) };
}

function writtenUnmapped(): Sabotage {
  return {
    vm: (vm, { buffers }) => ({
      ...vm,
      abandon: async (reason) => {
        await vm.abandon?.(reason);
        flip(buffers.blocks[0]?.bytes);
      },
    }),
  };
}

function flip(bytes: Uint8Array | undefined): void {
  if (bytes !== undefined) bytes[5] = (bytes[5] ?? 0) ^ 0xff;
}

function leftStream(): Sabotage {
  return {
    connector: (connector) => ({
      connect: async (request, signal) => {
        const link = await connector.connect(request, signal);
        await connector.connect({ ...request, pageChannels: 0 }, signal);
        return link;
      },
    }),
  };
}

function leftSleeper(): Sabotage {
  return {
    connector: (connector, process) => ({
      connect: (request, signal) => {
        void process.clock.sleep(1e9);
        return connector.connect(request, signal);
      },
    }),
  };
}

function unhandledError(): Sabotage {
  return {
    connector: (connector) => ({
      connect: (request, signal) => {
        void Promise.reject(new Error('unhandled on purpose'));
        return connector.connect(request, signal);
      },
    }),
  };
}

function pausedTwice(): Sabotage {
  return {
    vm: (vm) => ({
      ...vm,
      pause: async (signal) => {
        await Promise.all([vm.pause(signal), vm.pause(signal)]);
      },
    }),
  };
}
