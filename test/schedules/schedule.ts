import { Random } from '../fuzz/random.js';
import { type Fault, randomFault, randomFaults } from './fault.js';
import { type LeaseFault, randomLease } from './lease.js';
import { randomRecipe } from './recipe.js';

/** The kinds of devices. */
export const DEVICE_KINDS = [
  /** Sends all of its state in one piece, with the guest paused. */
  'stop-only',
  /** Sends new state while the guest runs; has `restart` at the source and `reset` at the destination. */
  'iterative',
  /** As `iterative`, without `reset`: a stop-and-copy whose state it has loaded cannot be given up. */
  'iterative-no-reset',
  /** Writes guest memory in `load`. */
  'load-writes',
  'slow-save',
  'slow-load',
] as const;

export type DeviceKind = (typeof DEVICE_KINDS)[number];

export interface DevicePlan {
  readonly id: string;
  readonly kind: DeviceKind;
  /** Bytes that are added to its journal to make the state larger. */
  readonly fillerBytes: number;
  /** Milliseconds that a slow `save` or `load` takes. */
  readonly slowMs: number;
  /** Whether it has `loadWrites`; without it every page counts as written by `load`. */
  readonly tellsWrites: boolean;
  /** Milliseconds that `prepared` takes at the destination; `undefined`: it has no such method. */
  readonly preparedMs: number | undefined;
  /** Until this time, in milliseconds, it reports that the guest must not be paused. */
  readonly blockedUntilMs: number;
  /** Whether `save` ends when its signal aborts. */
  readonly obeysSignal: boolean;
}

/** How the guest writes its memory, and how long it takes to stop and to start. */
export interface GuestPlan {
  readonly intervalMs: number;
  readonly writesPerInterval: number;
  readonly pattern: 'anywhere' | 'few pages' | 'in order' | 'whole pages';
  /** Number of writes between the call of `pause` and its return. */
  readonly burstAtPause: number;
  readonly pauseMs: number;
  readonly resumeMs: number;
  readonly tracker: 'software' | 'manual' | 'both';
  readonly pausedByUser: boolean;
}

export interface LinkPlan {
  /** The rate of the link; 0: frames take no time. */
  readonly bytesPerSecond: number;
  readonly latencyMs: number;
  /** The number of frames of a stream, in flight or unread, at which the stream's writer waits. */
  readonly capacity: number;
  /** Whether frames that have arrived and are unread are lost when the peer resets the connection. */
  readonly resetLosesUnread: boolean;
}

export interface OptionsPlan {
  readonly downtimeLimitMs: number;
  /** `undefined`: the engine's default. */
  readonly pauseLimitMs: number | undefined;
  readonly pageChannels: number;
  readonly delta: boolean;
  readonly verify: boolean;
  readonly checksum: boolean;
  /** Milliseconds that the migration waits in `pre-switchover`; `undefined`: it does not stop there. */
  readonly heldMs: number | undefined;
  /** Faults of the ownership authority; `undefined`: there is no authority. */
  readonly lease: readonly LeaseFault[] | undefined;
  /** The option `onArrival` of `receive`. */
  readonly onArrival: 'run' | 'pause';
  /** Number of rounds after which the policy forces the switchover: the pause is then unbounded. */
  readonly roundCap: number;
  readonly reconnectTimeoutMs: number;
  readonly settleTimeoutMs: number;
  readonly switchoverTimeoutMs: number;
  /** Bytes of device state that the destination holds; `undefined`: the engine's default. */
  readonly maximumDeviceState: number | undefined;
}

/** Describes one run of the engine completely: the same schedule gives the same run. */
export interface Schedule {
  readonly seed: number;
  /** Number of pages of each block. */
  readonly blocks: readonly number[];
  readonly filledPercent: number;
  readonly devices: readonly DevicePlan[];
  readonly guest: GuestPlan;
  readonly link: LinkPlan;
  readonly options: OptionsPlan;
  readonly faults: readonly Fault[];
}

export const PAGE_BYTES = 256;

const LARGEST_BLOCK = 256;

/** Makes the schedule of `seed`. */
export function scheduleOf(seed: number): Schedule {
  const random = new Random(seed);
  const blocks = Array.from({ length: random.pick([1, 1, 2, 3]) }, () => logBetween(random, 16, LARGEST_BLOCK));
  const devices = Array.from({ length: random.pick([0, 0, 1, 1, 2, 3, 4]) }, (_, index) =>
    randomDevice(random, `device${index}`),
  );
  return {
    seed,
    blocks,
    filledPercent: random.pick([0, 30, 60, 100]),
    devices,
    guest: randomGuest(random),
    link: randomLink(random),
    options: { ...randomOptions(random), maximumDeviceState: randomMaximum(new Random(seed ^ 0x3a7e), devices) },
    faults: random.oneIn(3) ? withRecipe(random, devices.length > 0) : randomFaults(random, devices.length > 0),
  };
}

function withRecipe(random: Random, devices: boolean): Fault[] {
  const others = Array.from({ length: random.pick([0, 0, 1, 2]) }, () => randomFault(random, devices));
  return [...randomRecipe(random), ...others];
}

function randomDevice(random: Random, id: string): DevicePlan {
  const kind = random.pick(DEVICE_KINDS);
  const slow = kind === 'slow-save' || kind === 'slow-load';
  return {
    id,
    kind,
    fillerBytes: random.pick([0, 16, 700, 5000]),
    slowMs: slow ? random.pick([5, 40, 150, 400]) : 0,
    tellsWrites: !random.oneIn(3),
    preparedMs: random.pick([undefined, undefined, 0, 10, 200]),
    blockedUntilMs: random.oneIn(12) ? random.pick([50, 400]) : 0,
    obeysSignal: !random.oneIn(3),
  };
}

function randomGuest(random: Random): GuestPlan {
  return {
    intervalMs: random.pick([1, 2, 5, 10]),
    writesPerInterval: random.pick([0, 1, 1, 3, 8]),
    pattern: random.pick(['anywhere', 'few pages', 'in order', 'whole pages']),
    burstAtPause: random.pick([0, 0, 2, 40]),
    pauseMs: random.pick([0, 0, 1, 5]),
    resumeMs: random.pick([0, 0, 1, 5]),
    tracker: random.pick(['software', 'manual', 'manual', 'both']),
    pausedByUser: random.oneIn(25),
  };
}

function randomLink(random: Random): LinkPlan {
  return {
    bytesPerSecond: random.pick([0, 2e6, 5e6, 20e6]),
    latencyMs: random.pick([0, 0.1, 0.5, 2, 10]),
    capacity: random.pick([1, 4, 4, 16]),
    resetLosesUnread: random.oneIn(2),
  };
}

/** A little more than the fillers need, so that slowly loaded journals wait for room. */
function randomMaximum(random: Random, devices: readonly DevicePlan[]): number | undefined {
  if (!random.oneIn(5)) return undefined;
  const spare = random.pick([200, 1000, 10_000]);
  // Less than the devices save: their state is then loaded as it comes.
  if (random.oneIn(2)) return spare;
  return devices.reduce((sum, { fillerBytes }) => sum + fillerBytes + 8, spare);
}

function randomOptions(random: Random): Omit<OptionsPlan, 'maximumDeviceState'> {
  const verify = random.oneIn(5);
  return {
    downtimeLimitMs: random.pick([5, 50, 100, 300]),
    pauseLimitMs: random.pick([undefined, undefined, 100, 300, 1000]),
    pageChannels: random.pick([0, 0, 1, 2, 3]),
    delta: random.oneIn(3),
    verify,
    checksum: random.oneIn(3),
    heldMs: random.oneIn(10) ? random.pick([0, 20, 700]) : undefined,
    lease: random.oneIn(4) ? randomLease(random) : undefined,
    onArrival: random.oneIn(12) ? 'pause' : 'run',
    roundCap: random.pick([3, 6, 12, 200, 1000]),
    reconnectTimeoutMs: random.pick([1000, 4000, 8000]),
    settleTimeoutMs: random.pick([1000, 4000, 8000]),
    switchoverTimeoutMs: random.pick([500, 2000, 5000]),
  };
}

/** A random whole number from `low` to `high`, with a uniform logarithm. */
export function logBetween(random: Random, low: number, high: number): number {
  const share = random.next() / 2 ** 32;
  return Math.min(high, Math.floor(low * ((high + 1) / low) ** share));
}

/** Names the parts that can be removed from a schedule. */
export function partsOf(schedule: Schedule): string[] {
  const { faults, devices, options, guest, link, blocks } = schedule;
  return [
    ...faults.map((_, index) => `fault${index}`),
    ...(blocks.length > 1 ? ['blocks'] : []),
    ...devices.map(({ id }) => id),
    ...(options.pageChannels > 0 ? ['channels'] : []),
    ...(options.delta ? ['delta'] : []),
    ...(options.verify ? ['verify'] : []),
    ...(options.checksum ? ['checksum'] : []),
    ...(options.heldMs !== undefined ? ['held'] : []),
    ...(options.lease !== undefined ? ['lease'] : []),
    ...(options.maximumDeviceState !== undefined ? ['room'] : []),
    ...(options.onArrival === 'pause' ? ['arrival'] : []),
    ...(guest.pausedByUser ? ['paused'] : []),
    ...(guest.burstAtPause > 0 ? ['burst'] : []),
    ...(guest.writesPerInterval > 0 ? ['writes'] : []),
    ...(guest.tracker !== 'software' ? ['tracker'] : []),
    ...(link.bytesPerSecond > 0 ? ['rate'] : []),
  ];
}

/** Returns the schedule without these parts. Numbers in their names refer to the whole schedule. */
export function without(schedule: Schedule, parts: ReadonlySet<string>): Schedule {
  const { options, guest, link } = schedule;
  return {
    ...schedule,
    blocks: parts.has('blocks') ? schedule.blocks.slice(0, 1) : schedule.blocks,
    devices: schedule.devices.filter(({ id }) => !parts.has(id)),
    faults: schedule.faults.filter((_, index) => !parts.has(`fault${index}`)),
    guest: {
      ...guest,
      burstAtPause: parts.has('burst') ? 0 : guest.burstAtPause,
      writesPerInterval: parts.has('writes') ? 0 : guest.writesPerInterval,
      tracker: parts.has('tracker') ? 'software' : guest.tracker,
      pausedByUser: guest.pausedByUser && !parts.has('paused'),
    },
    link: { ...link, bytesPerSecond: parts.has('rate') ? 0 : link.bytesPerSecond },
    options: {
      ...options,
      pageChannels: parts.has('channels') ? 0 : options.pageChannels,
      delta: options.delta && !parts.has('delta'),
      verify: options.verify && !parts.has('verify'),
      checksum: options.checksum && !parts.has('checksum'),
      heldMs: parts.has('held') ? undefined : options.heldMs,
      lease: parts.has('lease') ? undefined : options.lease,
      maximumDeviceState: parts.has('room') ? undefined : options.maximumDeviceState,
      onArrival: parts.has('arrival') ? 'run' : options.onArrival,
    },
  };
}
