import { randomBytes } from 'node:crypto';
import { GodwitError } from '@godwit/core';
import { BalloonDevice } from './balloon-device.js';
import { BlockDevice } from './block-device.js';
import { ConsoleDevice } from './console-device.js';
import { type DiskAccess, DiskFile } from './disk-file.js';
import { NetDevice } from './net-device.js';
import { RngDevice } from './rng-device.js';
import { type SocketChoice, SocketLink } from './socket-link.js';
import { type TapChoice, TapLink } from './tap-link.js';
import type { VirtioDescription } from './virtio-description.js';
import type { VirtioDevice } from './virtio-device.js';

/** A file of this host that is the guest's disk. */
export interface DiskChoice extends DiskAccess {
  readonly path: string;
}

/** Where the frames of a network card go on this host. */
export type NetChoice = SocketChoice | TapChoice;

/** What the virtio devices of a machine are connected to on this host. */
export interface VirtioHost {
  readonly disk?: DiskChoice;
  /** Where the frames of the guest's network card go. */
  readonly net?: NetChoice;
}

/** The choice of virtio devices for a new machine. */
export interface VirtioChoice extends VirtioHost {
  /** A source of random bytes. Default: none. */
  readonly rng?: boolean;
  /** A console, `hvc0`, which then gets the input in place of the serial port. Default: none. */
  readonly console?: boolean;
  /** A balloon, by which the guest names its free pages before it is moved. Default: none. */
  readonly balloon?: boolean;
}

/** The devices of a machine, and how its description names them. */
export interface VirtioParts {
  readonly description: readonly VirtioDescription[];
  readonly devices: readonly VirtioDevice[];
}

/** The disk's id for the guest. */
const DISK_NAME = 'godwit-disk';
/** The first three bytes of a card's address: QEMU's, which are assigned to no manufacturer. */
const MAC_PREFIX = '525400';

/** Makes the devices of a new machine. @throws GodwitError GODWIT_INVALID_ARGUMENT when the disk or the network cannot be used */
export async function newVirtio({
  rng = false,
  console = false,
  balloon = false,
  disk,
  net,
}: VirtioChoice): Promise<VirtioParts> {
  const mac = MAC_PREFIX + randomBytes(3).toString('hex');
  // Before the disk is open: an interface may not be there.
  const card = net && cardOf(mac, net);
  const file = disk && (await DiskFile.open(disk.path, disk));
  const parts = [
    ...(rng ? [{ description: { type: 'rng' } as const, device: new RngDevice() }] : []),
    ...(file === undefined ? [] : [blockParts(file)]),
    ...(console ? [{ description: { type: 'console' } as const, device: new ConsoleDevice() }] : []),
    ...(card === undefined ? [] : [{ description: { type: 'net', mac } as const, device: card }]),
    ...(balloon ? [{ description: { type: 'balloon' } as const, device: new BalloonDevice() }] : []),
  ];
  return { description: parts.map(({ description }) => description), devices: parts.map(({ device }) => device) };
}

/**
 * Makes the devices of a machine whose guest is about to arrive.
 *
 * @throws GodwitError GODWIT_UNSUPPORTED when this host does not have what they need
 */
export async function arrivingVirtio(
  description: readonly VirtioDescription[],
  host: VirtioHost,
): Promise<VirtioParts> {
  const has = (type: VirtioDescription['type']): boolean => description.some((device) => device.type === type);
  if (host.disk !== undefined && !has('block')) {
    throw refused(`the guest has no disk, and ${host.disk.path} is given as one: leave out --disk`);
  }
  if (host.net !== undefined && !has('net')) {
    throw refused(`the guest has no network card, and ${netName(host.net)} is given for one: leave out --net`);
  }
  const devices: VirtioDevice[] = [];
  try {
    for (const device of description) devices.push(await arriving(device, host));
    return { description, devices };
  } catch (error) {
    await closeDevices(devices);
    throw error;
  }
}

/** Frees devices whose machine could not be made. */
export async function closeDevices(devices: readonly VirtioDevice[]): Promise<void> {
  await Promise.all(devices.map((device) => device.close?.()));
}

async function arriving(device: VirtioDescription, { disk, net }: VirtioHost): Promise<VirtioDevice> {
  if (device.type === 'block') return new BlockDevice(await arrivingDisk(device, disk), DISK_NAME);
  if (device.type === 'net') {
    if (net !== undefined) return cardOf(device.mac, net);
    throw refused(
      'the guest has a network card, and nothing is given for it here: name a socket or a tap interface at the destination (--net SOCKET)',
    );
  }
  if (device.type === 'balloon') return new BalloonDevice();
  return device.type === 'console' ? new ConsoleDevice() : new RngDevice();
}

/** The disk for a guest that is about to arrive: the source's own disk, or a copy of the same size. */
async function arrivingDisk(
  { byteLength, readonly }: Extract<VirtioDescription, { readonly type: 'block' }>,
  disk: DiskChoice | undefined,
): Promise<DiskFile> {
  if (disk === undefined) {
    const how = readonly ? 'reads' : 'writes';
    throw refused(
      `the guest ${how} a disk of ${byteLength} bytes, and none is given here: name the file at the destination (--disk FILE)`,
    );
  }
  if (disk.readonly === true && !readonly) {
    throw refused(`the guest writes its disk, and ${disk.path} is given as read-only: leave out "readonly"`);
  }
  const file = await DiskFile.open(disk.path, { ...disk, readonly }).catch((error: Error) => {
    throw refused(error.message, error);
  });
  if (file.byteLength === byteLength) return file;
  await file.close();
  throw refused(
    `the guest's disk has ${byteLength} bytes, and ${disk.path} has ${file.byteLength}: name the file that the source has, or a copy of it`,
  );
}

function cardOf(mac: string, net: NetChoice): NetDevice {
  const link = 'tap' in net ? new TapLink(net) : new SocketLink(net);
  return new NetDevice(Buffer.from(mac, 'hex'), link);
}

function netName(net: NetChoice): string {
  return 'tap' in net ? `tap:${net.tap}` : net.path;
}

function blockParts(file: DiskFile): { description: VirtioDescription; device: VirtioDevice } {
  const { byteLength, readonly } = file;
  return { description: { type: 'block', byteLength, readonly }, device: new BlockDevice(file, DISK_NAME) };
}

/** The error of a host that cannot take the guest. */
function refused(message: string, cause?: unknown): GodwitError {
  return new GodwitError('GODWIT_UNSUPPORTED', message, { cause });
}
