import type { StateReader, StateWriter } from '../state/state-sections.js';
import type { DescriptorChain } from './descriptor-chain.js';
import type { DeviceMemory } from './device-memory.js';

/** The surroundings of a device, which it gets from the transport before the first call. */
export interface DeviceSurroundings {
  /** Serves a queue again, because the resource that the device waited for is available. */
  kick(queue: number): void;
  /** The guest's memory. */
  readonly memory: DeviceMemory;
  /** The features that the driver has accepted; 0 before it has. */
  features(): bigint;
  /** Tells the driver that the configuration has changed. */
  configChanged(): void;
}

/** What a device does with one of its queues. */
export interface QueueService {
  /** The most bytes that the buffers of one chain may have together: a guest that offers more has broken the device. */
  readonly maximumChainBytes: number;
  /** How many chains the device has in hand at a time. Default 1. */
  readonly mostInHand?: number;
  /** Whether the device can use a chain now; without it always. When that changes the device calls `kick`. */
  ready?(): boolean;
  /**
   * Uses a chain, which is given back to the driver when the promise resolves.
   *
   * @returns the bytes that were written into the chain, from its first writable byte on
   * @throws QueueFault when the chain is no request: the device then needs a reset
   */
  serve(chain: DescriptorChain): Promise<number> | number;
}

/** A kind of virtio device, behind a transport. All methods are called on the main thread. */
export interface VirtioDevice {
  /** Unique in the machine, also the id of its state. */
  readonly id: string;
  /** One of `DeviceType`. */
  readonly type: number;
  /** Feature bits that are offered beside VERSION_1. */
  readonly features: bigint;
  readonly queues: readonly QueueService[];
  /** The configuration space as it is now. */
  readonly config: Uint8Array;
  /** Version of the state: of the sections of `save`. */
  readonly version: number;
  /** Tags of the device's own sections, beside the transport's, and the most bytes of each. */
  readonly sections: Readonly<Record<string, number>>;
  attach(surroundings: DeviceSurroundings): void;
  /** The driver has written into the configuration space. Default: it is read-only. */
  writeConfig?(offset: number, bytes: Uint8Array): void;
  /** The driver has reset the device. Chains in hand are not given back. */
  reset?(): void;
  /** The machine is about to run. @throws GodwitError when it must not: the machine stays paused */
  start?(): void;
  /** The machine was paused, and no chain is in hand. */
  stop?(): Promise<void>;
  /** Frees what the device holds; after `stop`, once. */
  close?(): Promise<void>;
  /** Adds the device's own sections; only while the machine is paused. */
  save?(writer: StateWriter): void;
  /** Reads them; a state that is refused changes nothing. @throws GodwitError GODWIT_DEVICE_FAILED */
  load?(reader: StateReader): void;
}
