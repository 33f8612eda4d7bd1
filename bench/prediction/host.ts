/** The program of a process that has one machine of node-vmm, for the benchmark of predictions. It carries out its parent's commands. */
import { setTimeout as sleep } from 'node:timers/promises';
import {
  delta,
  estimate,
  type GuestSample,
  type IncomingMigration,
  type LinkListener,
  type MigratableDevice,
  type MigratableVm,
  migrate,
  receive,
} from '@godwit/core';
import { Machine } from '@godwit/example-node-vmm';
import { type CommandHandlers, serveCommands } from '@godwit/example-node-vmm/process';
import { connectTo, listenOn, lz4, tcp } from '@godwit/transport';
import { onWorkers } from '@godwit/workers';
import { BallastDevice } from './ballast-device.js';
import type { PredictionCase } from './cases.js';
import { type HostCommands, LAST_RESORT_MS } from './host-messages.js';
import { liveSettings } from './settings.js';
import { simulateLive } from './simulated.js';

const MEMORY_BYTES = 512 * 2 ** 20;

/** The shortest and the longest time for which the guest runs before it is migrated, to write its working set once. Milliseconds. */
const WARM_UP_MS = { least: 500, most: 3000 };
const PAGE = 4096;

class Host {
  #machine: Machine | undefined;
  #listener: LinkListener | undefined;
  #incoming: IncomingMigration | undefined;

  readonly handlers: CommandHandlers<HostCommands> = {
    boot: async ({ vcpus, workingSetBytes, order, wholePages, pagesPerSecond }) => {
      const workload = { workingSetBytes, order, wholePages, pagesPerSecond };
      this.#machine = await Machine.create({ memoryBytes: MEMORY_BYTES, vcpus, overcommit: true, workload });
      await this.#machine.resume();
      // Pages that were never written are holes, which take no time to send.
      const onceMs = pagesPerSecond === 0 ? 0 : (workingSetBytes / PAGE / pagesPerSecond) * 1000;
      await sleep(Math.min(WARM_UP_MS.most, WARM_UP_MS.least + onceMs));
      return null;
    },

    listen: async (chosen) => {
      const listening = await listenOn(tcp({ host: '127.0.0.1', port: 0 }));
      const { channels } = chosen;
      this.#listener = channels > 0 ? onWorkers(listening, { threads: channels }) : listening;
      this.#incoming = receive(this.#listener, {
        encodings: encodingsOf(chosen),
        prepare: async (description) => {
          this.#machine = await Machine.fromDescription(description, { overcommit: true });
          return withBallast(this.#machine, chosen);
        },
      });
      return listening.listener.port;
    },

    send: async ({ port, chosen, alsoSimulated }) => {
      const { channels } = chosen;
      const machine = this.#theMachine();
      const sample = alsoSimulated ? await watch(machine) : undefined;
      const connector = connectTo(tcp({ host: '127.0.0.1', port }));
      const { result } = migrate(withBallast(machine, chosen), channels > 0 ? onWorkers(connector) : connector, {
        ...{ pageChannels: channels, encodings: encodingsOf(chosen), ...liveSettings(chosen) },
        description: machine.description,
      });
      const summary = await result;
      const { vcpus } = chosen;
      const stateBytes = summary.deviceBytes - chosen.deviceBytes;
      const simulated = sample && (await simulateLive(chosen, { sample, vcpus, stateBytes, summary }));
      return {
        ...(simulated === undefined ? {} : { simulated }),
        predictedMs: summary.predictedDowntimeMs,
        rangeMs: summary.predictedDowntimeRangeMs,
        actualMs: summary.downtimeMs,
        rounds: summary.rounds.length,
        attempts: summary.attempts.length + 1,
        totalMs: summary.totalMs,
        terms: summary.downtime,
      };
    },

    arrival: async () => {
      await this.#incoming?.result;
      return null;
    },

    close: async () => {
      await this.close();
      return null;
    },
  };

  async close(): Promise<void> {
    this.#incoming?.cancel('the benchmark goes on');
    await Promise.allSettled([this.#incoming?.result, this.#listener?.close()]);
    await this.#machine?.close();
    this.#incoming = undefined;
    this.#listener = undefined;
    this.#machine = undefined;
  }

  #theMachine(): Machine {
    if (this.#machine === undefined) throw new Error('there is no machine yet');
    return this.#machine;
  }
}

/** The rate of the link does not matter here: only the guest is watched. */
async function watch(machine: MigratableVm): Promise<GuestSample> {
  return (await estimate(machine, 1e9)).sample;
}

function encodingsOf({ encodings }: PredictionCase) {
  return encodings.map((name) => (name === 'delta' ? delta() : lz4()));
}

/** The machine, with one more device if the case has one. */
function withBallast(machine: Machine, { deviceBytes, loadMs }: PredictionCase): MigratableVm {
  const vm: MigratableVm = machine;
  if (deviceBytes === 0) return vm;
  const devices: readonly MigratableDevice[] = [...vm.devices, new BallastDevice(deviceBytes, loadMs)];
  // The machine's getters and methods use private fields, so that `this` must be the machine and not the proxy.
  return new Proxy(vm, {
    get: (target, name) => {
      if (name === 'devices') return devices;
      const value: unknown = Reflect.get(target, name, target);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
}

const host = new Host();
serveCommands(host.handlers, () => host.close(), LAST_RESORT_MS);
