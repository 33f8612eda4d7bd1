import type { MigratableVm } from '../device/migratable-vm.js';
import { GodwitError } from '../errors.js';
import type { FrameStream } from '../link/frame-stream.js';
import type { HelloFrame, HelloStage, WelcomeFrame } from './frame.js';
import { checkSharedBlocks } from './shared-memory.js';

/** Protocol versions that this engine speaks. */
export const PROTOCOL_VERSION = { minimum: 2, maximum: 2 } as const;

/** Name and version of this engine, for the peer's messages. */
export const SOFTWARE = 'godwit/0.1.0';

/** Optional features of this protocol; the hello offers them and `welcome` chooses. */
export const FEATURES = {
  /** Comparison of all RAM between `ready` and `go`. */
  verify: 'verify',
  /** Every frame of every stream is followed by its checksum. */
  checksum: 'checksum',
  /** The destination can go back to receiving when a stop-and-copy is given up. A file cannot. */
  back: 'back',
  /** The destination reads frames that only measure the link. A file cannot. */
  probe: 'probe',
  /** The source reads `received` and `owed` frames whose pages are a bitmap. */
  bitmap: 'bitmap',
  /** The hello has blocks that both sides share. A destination without this feature would take their pages for zero. */
  shared: 'shared',
  /** The destination takes device state on page channels too, in any order. A file does not. */
  deviceChannels: 'deviceChannels',
  /** The destination loads the state of a stop-and-copy before `switchover` when it cannot hold all of it. A file cannot. */
  loadEarly: 'loadEarly',
  /** The guest can run at the destination before its memory is there; the last page channel of the hello is the urgent one. */
  postcopy: 'postcopy',
} as const;

/**
 * Most pieces of device state, of all devices together, that a destination holds before they are loaded, beside the last one of each device.
 * However small a piece is, it takes some 200 bytes there. State in pieces of 1 KiB and more reaches the default of `maximumDeviceState` first.
 */
export const MOST_PIECES = 2 ** 18;

/** Most bytes of payload in one frame that a destination of this engine takes. */
export const MAXIMUM_PAYLOAD = 4 * 2 ** 20;

/** The fields of a hello that do not come from the VM. */
export interface HelloParts {
  readonly migrationId: string;
  readonly features: readonly string[];
  readonly pageChannels: number;
  readonly description: unknown;
  readonly connection: number;
  readonly stage: HelloStage;
  readonly attempt: number;
  /** Bytes that each device's `save` is expected to yield; 0 where the device does not report it. */
  readonly stateBytes: readonly number[];
}

/** Makes the source's hello. */
export function helloOf({ memory, devices }: MigratableVm, parts: HelloParts): HelloFrame {
  const { stateBytes, description, ...rest } = parts;
  return {
    type: 'hello',
    minimumVersion: PROTOCOL_VERSION.minimum,
    maximumVersion: PROTOCOL_VERSION.maximum,
    software: SOFTWARE,
    pageSize: memory.pageSize,
    blocks: memory.blocks.map(({ id, guestPhysicalAddress, byteLength, identity = '', shared, readOnly }) => ({
      id,
      guestPhysicalAddress,
      byteLength,
      identity,
      ...(shared && { shared }),
      ...(readOnly && { readOnly }),
    })),
    devices: devices.map(({ id, version }, index) => ({ id, version, stateBytes: stateBytes[index] ?? 0 })),
    description: description ?? null,
    ...rest,
  };
}

/** Most page channels of one migration. */
export const MAXIMUM_PAGE_CHANNELS = 64;

/**
 * The index of the urgent channel's stream, where 0 is the control stream and n is page channel n - 1; undefined where the hello announces
 * no urgent channel.
 */
export function urgentStreamOf({ features, pageChannels }: HelloFrame): number | undefined {
  return features.includes(FEATURES.postcopy) && pageChannels > 0 ? pageChannels : undefined;
}

/** Checks a hello before anything is built or allocated for it. Throws `GODWIT_PROTOCOL` or `GODWIT_LIMIT_EXCEEDED`. */
export function checkHello(hello: HelloFrame): void {
  if (!/^[0-9a-f]{32}$/.test(hello.migrationId)) {
    throw new GodwitError('GODWIT_PROTOCOL', 'the migrationId of a hello must be 32 hex digits');
  }
  const most = MAXIMUM_PAGE_CHANNELS + (hello.features.includes(FEATURES.postcopy) ? 1 : 0);
  if (!Number.isInteger(hello.pageChannels) || hello.pageChannels < 0 || hello.pageChannels > most) {
    throw new GodwitError(
      'GODWIT_LIMIT_EXCEEDED',
      `the source wants ${hello.pageChannels} page channels; there may be from 0 to ${most}`,
    );
  }
}

/**
 * Checks that every stream has checksums, after both sides agreed on them; `whose` says which side made the streams. Throws
 * `GODWIT_UNSUPPORTED` or `GODWIT_PROTOCOL`.
 */
export function checkChecksums(streams: readonly FrameStream[], peer: string, whose: 'ours' | "the source's"): void {
  if (streams.every((stream) => stream.checksums === true)) return;
  throw whose === 'ours'
    ? new GodwitError(
        'GODWIT_UNSUPPORTED',
        `"checksum" was asked for, but the streams to ${peer} cannot carry checksums; leave it out, or use another transport`,
      )
    : new GodwitError('GODWIT_PROTOCOL', `the source agreed on checksums, but a stream from ${peer} has none`);
}

/** Returns the highest protocol version that both sides speak; throws `GODWIT_VERSION_MISMATCH` when there is none. */
export function chooseVersion(hello: HelloFrame): number {
  const version = Math.min(hello.maximumVersion, PROTOCOL_VERSION.maximum);
  if (!(version >= hello.minimumVersion && version >= PROTOCOL_VERSION.minimum)) {
    throw new GodwitError(
      'GODWIT_VERSION_MISMATCH',
      `the source (${hello.software}) speaks protocol versions ${hello.minimumVersion} to ${hello.maximumVersion}, ` +
        `this destination (${SOFTWARE}) ${PROTOCOL_VERSION.minimum} to ${PROTOCOL_VERSION.maximum}; upgrade the older side`,
    );
  }
  return version;
}

/**
 * Checks, before a page moves, that the VM fits the source's: page size, RAM blocks, devices and the size of their state. Throws
 * `GODWIT_PAGE_SIZE_MISMATCH`, `GODWIT_MEMORY_MISMATCH`, `GODWIT_SHARED_MEMORY`, `GODWIT_DEVICE_MISMATCH` or `GODWIT_LIMIT_EXCEEDED`.
 */
export function checkCompatible(hello: HelloFrame, vm: MigratableVm, maximumDeviceState: number): void {
  if (hello.pageSize !== vm.memory.pageSize) {
    throw new GodwitError(
      'GODWIT_PAGE_SIZE_MISMATCH',
      `the source's pages have ${hello.pageSize} bytes, the destination's ${vm.memory.pageSize}`,
    );
  }
  checkBlocks(hello, vm);
  checkSharedBlocks(hello, vm.memory);
  checkDevices(hello, vm);
  checkStateSizes(hello, vm);
  // A source that waits for room can save more than the destination holds.
  if (hello.features.includes(FEATURES.loadEarly)) return;
  checkDeviceState(
    hello.devices.map(({ id }) => id),
    hello.devices.map(({ stateBytes }) => stateBytes),
    maximumDeviceState,
  );
}

/** Checks that no device expects to save more than the destination's device takes. Throws `GODWIT_LIMIT_EXCEEDED`. */
function checkStateSizes(hello: HelloFrame, vm: MigratableVm): void {
  const most = new Map(vm.devices.map(({ id, maximumStateBytes }) => [id, maximumStateBytes]));
  for (const { id, stateBytes } of hello.devices) {
    const maximum = most.get(id);
    if (maximum === undefined || stateBytes <= maximum) continue;
    throw new GodwitError(
      'GODWIT_LIMIT_EXCEEDED',
      `device "${id}" expects to save ${stateBytes} bytes of state, and the destination's takes at most ${maximum} (its maximumStateBytes): ` +
        'are the two devices configured alike?',
    );
  }
}

/**
 * Checks, before a page moves, that the destination would hold the devices' state, where it cannot load it early. Throws
 * `GODWIT_LIMIT_EXCEEDED`, which would otherwise come with the guest paused.
 */
export function checkDeviceState(
  ids: readonly string[],
  stateBytes: readonly number[],
  maximumDeviceState: number,
): void {
  const total = stateBytes.reduce((sum, bytes) => sum + bytes, 0);
  if (total <= maximumDeviceState) return;
  const largest = stateBytes.indexOf(Math.max(...stateBytes));
  throw new GodwitError(
    'GODWIT_LIMIT_EXCEEDED',
    `the devices expect to save ${total} bytes of state (the largest, "${ids[largest]}": ${stateBytes[largest]}), and the destination ` +
      `holds at most ${maximumDeviceState}; raise maximumDeviceState at the destination`,
  );
}

function checkBlocks(hello: HelloFrame, vm: MigratableVm): void {
  const mine = vm.memory.blocks;
  const names = (blocks: readonly { readonly id: string }[]) => blocks.map((block) => block.id).join(', ') || 'none';
  if (hello.blocks.length !== mine.length) {
    throw new GodwitError(
      'GODWIT_MEMORY_MISMATCH',
      `the source has RAM blocks ${names(hello.blocks)}; the destination has ${names(mine)}`,
    );
  }
  for (const [index, block] of hello.blocks.entries()) {
    const own = mine[index] as (typeof mine)[number];
    if (
      block.id !== own.id ||
      block.guestPhysicalAddress !== own.guestPhysicalAddress ||
      block.byteLength !== own.byteLength
    ) {
      throw new GodwitError(
        'GODWIT_MEMORY_MISMATCH',
        `RAM block ${index} is "${block.id}" with ${block.byteLength} bytes at 0x${block.guestPhysicalAddress.toString(16)} ` +
          `at the source, but "${own.id}" with ${own.byteLength} bytes at 0x${own.guestPhysicalAddress.toString(16)} at the destination`,
      );
    }
    if ((block.readOnly === true) !== (own.readOnly === true)) {
      const [one, other] = block.readOnly ? ['source', 'destination'] : ['destination', 'source'];
      throw new GodwitError(
        'GODWIT_MEMORY_MISMATCH',
        `RAM block "${block.id}" is read-only at the ${one}, but not at the ${other}; set readOnly at both ends or at none`,
      );
    }
  }
}

function checkDevices(hello: HelloFrame, vm: MigratableVm): void {
  const mine = new Map(vm.devices.map((device) => [device.id, device]));
  const seen = new Set<string>();
  for (const device of hello.devices) {
    const own = mine.get(device.id);
    if (seen.has(device.id)) {
      throw new GodwitError('GODWIT_DEVICE_MISMATCH', `the source lists the device "${device.id}" twice`);
    }
    seen.add(device.id);
    if (own === undefined) {
      throw new GodwitError(
        'GODWIT_DEVICE_MISMATCH',
        `the source has a device "${device.id}" that the destination lacks`,
      );
    }
    const oldest = own.minimumVersion ?? own.version;
    if (device.version < oldest || device.version > own.version) {
      throw new GodwitError(
        'GODWIT_DEVICE_MISMATCH',
        `device "${device.id}": the source saves version ${device.version}, the destination loads ` +
          (oldest === own.version ? `version ${own.version} only` : `versions ${oldest} to ${own.version}`),
      );
    }
  }
  for (const id of mine.keys()) {
    if (!seen.has(id)) {
      throw new GodwitError('GODWIT_DEVICE_MISMATCH', `the destination has a device "${id}" that the source lacks`);
    }
  }
}

/**
 * Checks the destination's answer at the source. Throws `GODWIT_VERSION_MISMATCH`; `GODWIT_PROTOCOL` for a feature that was not
 * `offered`; `GODWIT_LIMIT_EXCEEDED` when a page does not fit into a frame; and `GODWIT_UNSUPPORTED` for an offered feature that was
 * not chosen, unless it is `dispensable`.
 */
export function checkWelcome(
  welcome: WelcomeFrame,
  offered: readonly string[],
  pageSize: number,
  dispensable: readonly string[] = [],
): void {
  if (!(welcome.version >= PROTOCOL_VERSION.minimum && welcome.version <= PROTOCOL_VERSION.maximum)) {
    throw new GodwitError(
      'GODWIT_VERSION_MISMATCH',
      `the destination (${welcome.software}) chose protocol version ${welcome.version}; ` +
        `offered were ${PROTOCOL_VERSION.minimum} to ${PROTOCOL_VERSION.maximum}`,
    );
  }
  for (const feature of welcome.features) {
    if (!offered.includes(feature)) {
      throw new GodwitError(
        'GODWIT_PROTOCOL',
        `the destination (${welcome.software}) chose the feature "${feature}", which was not offered`,
      );
    }
  }
  if (!(welcome.maximumPayload >= pageSize)) {
    throw new GodwitError(
      'GODWIT_LIMIT_EXCEEDED',
      `the destination takes at most ${welcome.maximumPayload} bytes in a frame: less than a page of ${pageSize} bytes`,
    );
  }
  for (const feature of offered) {
    if (!welcome.features.includes(feature) && !dispensable.includes(feature)) {
      const remedy = feature === FEATURES.postcopy ? ': it takes receive({ faults: faultThreads() }) there' : '';
      throw new GodwitError(
        'GODWIT_UNSUPPORTED',
        `"${feature}" was asked for, but the destination (${welcome.software}) does not offer it${remedy}`,
      );
    }
  }
}
