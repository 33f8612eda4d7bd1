import type { MigratableVm } from '../device/migratable-vm.js';
import { GodwitError } from '../errors.js';
import { MAXIMUM_PAGE_CHANNELS } from '../protocol/negotiate.js';
import { checkGranularity, type Fineness, granularityOf, guestPageOf } from './granularity.js';
import { PageKinds } from './page-kinds.js';
import { Random } from './random.js';
import { DEFAULT_DEVICES, DEFAULT_HOST, type Scenario } from './scenario.js';
import { SimulatedDevice } from './simulated-device.js';
import { SimulatedFaults } from './simulated-faults.js';
import { SimulatedGuest, simulatedDestination } from './simulated-guest.js';
import { type SimulatedLink, simulatedLink } from './simulated-link.js';
import { simulatedMemory } from './simulated-memory.js';
import { SimulatedNetwork } from './simulated-network.js';
import { Touches } from './touches.js';
import { VirtualClock } from './virtual-clock.js';
import { isInOrder, isSteady, periodMs, writtenBytes } from './workload/shape.js';
import { makeWriter } from './workload/writer.js';

/** The shortest and the longest time of a batch of pages on the wire, in milliseconds: the same as for orders to a worker thread. */
const BATCH_MS = { least: 10, most: 50 } as const;

/** The most batches into which all memory is divided: for a large memory each batch takes longer. */
const BATCHES_OF_MEMORY = 5000;

/** The simulation is stopped after `times` times the time to send all memory, and `ms` more. */
const PATIENCE = { times: 6, ms: 60_000 } as const;

export interface WorldOptions {
  readonly seed: number;
  readonly downtimeLimitMs: number;
  readonly granularity?: number | undefined;
  readonly fineness: Fineness;
}

/** The parts of a simulated migration: guest, hosts, link and clock. */
export interface World {
  readonly clock: VirtualClock;
  readonly random: Random;
  readonly pageSize: number;
  readonly channels: number;
  readonly guest: SimulatedGuest;
  readonly destination: () => Promise<MigratableVm>;
  readonly link: SimulatedLink;
  /** Serves page faults at the destination. */
  readonly faults: SimulatedFaults;
  readonly kinds: PageKinds;
  /** Bytes of state of all devices. */
  readonly deviceBytes: number;
  /** The throttle from each moment on. */
  readonly throttle: readonly { readonly ms: number; readonly fraction: number }[];
  /** The time after which a migration counts as not ending. Milliseconds. */
  readonly patienceMs: number;
  /** True when nothing in the scenario changes with time. */
  readonly steady: boolean;
  /** To be aborted at the end. */
  readonly over: AbortController;
}

/** @throws GodwitError GODWIT_INVALID_ARGUMENT for an impossible scenario, with the reason */
export function buildWorld(scenario: Scenario, { seed, downtimeLimitMs, granularity, fineness }: WorldOptions): World {
  const { workload, devices = DEFAULT_DEVICES, encoding = {}, canThrottle = true } = scenario;
  const host = { ...DEFAULT_HOST, ...scenario.host };
  for (const [name, value] of Object.entries(host)) if (!(value >= 0)) throw invalid(`host.${name}`, value);
  if (!(host.scanBytesPerSecond > 0)) throw invalid('host.scanBytesPerSecond', host.scanBytesPerSecond);
  for (const { id, bytes: state, precopyBytes = 0 } of devices) {
    // A device without state is refused by a real migration.
    if (!(state >= 0 && precopyBytes >= 0 && state + precopyBytes > 0))
      throw invalid(`the bytes of device "${id}"`, state);
  }
  if (!Number.isSafeInteger(seed)) throw invalid('seed', seed);
  const channels = scenario.link.channels ?? 1;
  if (!Number.isInteger(channels) || channels < 1 || channels > MAXIMUM_PAGE_CHANNELS) {
    throw invalid('link.channels', channels);
  }
  const clock = new VirtualClock();
  const over = new AbortController();
  const network = new SimulatedNetwork(clock, scenario.link, new Random(seed + 1));
  const { bytes, populatedBytes, zeroShare } = checkedMemory(scenario);
  const pageSize =
    granularity === undefined
      ? granularityOf(scenario, downtimeLimitMs, fineness)
      : checkGranularity(scenario, granularity);
  const byteLength = wholePages(bytes, pageSize);
  const populated = Math.min(byteLength, wholePages(populatedBytes, pageSize));
  const notWritten = 1 - Math.min(1, writtenBytes(workload, populated) / populated);
  const kinds = new PageKinds(pageSize, zeroShare * notWritten, encoding, host.scanBytesPerSecond);
  const passMs = (populated / scenario.link.bytesPerSecond) * 1000;
  const batchMs = Math.min(BATCH_MS.most, Math.max(BATCH_MS.least, passMs / BATCHES_OF_MEMORY));
  const throttle: { ms: number; fraction: number }[] = [];
  const guestPageSize = guestPageOf(scenario);
  const writer = makeWriter(workload, { populatedBytes: populated, pageSize, guestPageSize }, new Random(seed));
  const guest = new SimulatedGuest({
    clock,
    memory: simulatedMemory(pageSize, byteLength, populated),
    devices: devices.map((device) => new SimulatedDevice(clock, device)),
    host,
    guestPageSize,
    writer,
    canThrottle,
    onThrottle: (fraction) => {
      if (throttle.at(-1)?.fraction !== fraction) throttle.push({ ms: clock.now(), fraction });
    },
  });
  return {
    ...{ clock, pageSize, channels, guest, kinds, throttle, over },
    random: new Random(seed + 2),
    faults: new SimulatedFaults({
      clock,
      touches: () =>
        new Touches({
          clock,
          writer,
          pageCount: byteLength / pageSize,
          ranMs: guest.ranMs,
          random: isInOrder(workload) ? undefined : new Random(seed + 3),
        }),
      guestPages: pageSize / guestPageSize,
      faultMs: host.faultMs,
      travelMs: () => network.travelMs(),
    }),
    link: simulatedLink(network, { kinds, batchMs }, over.signal),
    destination: async () => {
      if (host.prepareMs > 0) await clock.sleep(host.prepareMs);
      return simulatedDestination(
        clock,
        simulatedMemory(pageSize, byteLength, 0),
        devices.map((device) => new SimulatedDevice(clock, device)),
        host.resumeMs,
      );
    },
    deviceBytes: devices.reduce((sum, device) => sum + device.bytes + (device.precopyBytes ?? 0), 0),
    steady: isSteady(workload) && (scenario.link.changes ?? []).length === 0 && (scenario.link.cuts ?? []).length === 0,
    patienceMs: PATIENCE.ms + PATIENCE.times * passMs + periodMs(workload),
  };
}

function checkedMemory({ memory }: Scenario) {
  const { bytes, populatedBytes = bytes, zeroShare = 0 } = memory;
  if (!(Number.isSafeInteger(bytes) && bytes > 0)) throw invalid('memory.bytes', bytes);
  if (!(populatedBytes > 0 && populatedBytes <= bytes)) throw invalid('memory.populatedBytes', populatedBytes);
  if (!(zeroShare >= 0 && zeroShare <= 1)) throw invalid('memory.zeroShare', zeroShare);
  return { bytes, populatedBytes, zeroShare };
}

function wholePages(bytes: number, pageSize: number): number {
  return Math.ceil(bytes / pageSize) * pageSize;
}

function invalid(name: string, value: unknown): GodwitError {
  return new GodwitError('GODWIT_INVALID_ARGUMENT', `${name} of a simulation cannot be ${String(value)}`);
}
