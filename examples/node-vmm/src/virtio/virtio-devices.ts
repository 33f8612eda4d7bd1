import { GodwitError } from '@godwit/core';
import { BlockDevice } from './block-device.js';
import { ConsoleDevice } from './console-device.js';
import { DiskFile } from './disk-file.js';
import { RngDevice } from './rng-device.js';
import type { VirtioDescription } from './virtio-description.js';
import type { VirtioDevice } from './virtio-device.js';

/** A file of this host that is the guest's disk. */
export interface DiskChoice {
  readonly path: string;
  /** Whether the guest only reads it. Default: it writes too. */
  readonly readonly?: boolean;
}

/** What the virtio devices of a machine are connected to on this host. */
export interface VirtioHost {
  readonly disk?: DiskChoice;
}

/** The virtio devices that a new machine is to have. */
export interface VirtioChoice extends VirtioHost {
  /** A source of random bytes. Default: none. */
  readonly rng?: boolean;
  /** A console, `hvc0`, which gets what is typed. Default: none, and the serial port gets it. */
  readonly console?: boolean;
}

/** The devices of a machine, and how its description names them. */
export interface VirtioParts {
  readonly description: readonly VirtioDescription[];
  readonly devices: readonly VirtioDevice[];
}

/** What a guest sees as its disk's id. */
const DISK_NAME = 'godwit-disk';

/** Makes the devices of a new machine. @throws GodwitError GODWIT_INVALID_ARGUMENT when the disk cannot be used */
export async function newVirtio({ rng = false, console = false, disk }: VirtioChoice): Promise<VirtioParts> {
  const file = disk && (await DiskFile.open(disk.path, disk.readonly ?? false));
  const parts = [
    ...(rng ? [{ description: { type: 'rng' } as const, device: new RngDevice() }] : []),
    ...(file === undefined ? [] : [blockParts(file)]),
    ...(console ? [{ description: { type: 'console' } as const, device: new ConsoleDevice() }] : []),
  ];
  return { description: parts.map(({ description }) => description), devices: parts.map(({ device }) => device) };
}

/**
 * Makes the devices of a machine whose guest is about to arrive.
 *
 * @throws GodwitError GODWIT_INVALID_ARGUMENT when this host does not have what they need
 */
export async function arrivingVirtio(
  description: readonly VirtioDescription[],
  { disk }: VirtioHost,
): Promise<VirtioParts> {
  const wanted = description.find((device) => device.type === 'block');
  if (wanted === undefined && disk !== undefined) {
    throw invalid(`the guest has no disk, and ${disk.path} is given as one: leave that out`);
  }
  const devices: VirtioDevice[] = [];
  try {
    for (const device of description) devices.push(await arriving(device, disk));
    return { description, devices };
  } catch (error) {
    await closeDevices(devices);
    throw error;
  }
}

/** Frees devices of which no machine was made. */
export async function closeDevices(devices: readonly VirtioDevice[]): Promise<void> {
  await Promise.all(devices.map((device) => device.close?.()));
}

async function arriving(device: VirtioDescription, disk: DiskChoice | undefined): Promise<VirtioDevice> {
  if (device.type === 'block') return new BlockDevice(await arrivingDisk(device, disk), DISK_NAME);
  return device.type === 'console' ? new ConsoleDevice() : new RngDevice();
}

/** The disk of a guest that is about to arrive: the same one, or a copy, which has the same size. */
async function arrivingDisk(
  { byteLength, readonly }: Extract<VirtioDescription, { readonly type: 'block' }>,
  disk: DiskChoice | undefined,
): Promise<DiskFile> {
  if (disk === undefined) {
    const how = readonly ? 'reads' : 'writes';
    throw invalid(
      `the guest ${how} a disk of ${byteLength} bytes, and none is given here: name the file at the destination (--disk FILE)`,
    );
  }
  if (disk.readonly === true && !readonly) {
    throw invalid(`the guest writes its disk, and ${disk.path} is given as read-only: leave out "readonly"`);
  }
  const file = await DiskFile.open(disk.path, readonly);
  if (file.byteLength === byteLength) return file;
  await file.close();
  throw invalid(
    `the guest's disk has ${byteLength} bytes, and ${disk.path} has ${file.byteLength}: name the file that the source has, or a copy of it`,
  );
}

function blockParts(file: DiskFile): { description: VirtioDescription; device: VirtioDevice } {
  const { byteLength, readonly } = file;
  return { description: { type: 'block', byteLength, readonly }, device: new BlockDevice(file, DISK_NAME) };
}

function invalid(message: string): GodwitError {
  return new GodwitError('GODWIT_INVALID_ARGUMENT', message);
}
