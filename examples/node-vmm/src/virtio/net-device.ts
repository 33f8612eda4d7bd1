import type { DescriptorChain } from './descriptor-chain.js';
import type { FrameLink } from './frame-link.js';
import { Announcer } from './net-announcer.js';
import { QueueFault } from './split-queue.js';
import type { DeviceSurroundings, QueueService, VirtioDevice } from './virtio-device.js';
import { DeviceType } from './virtio-numbers.js';

/** Feature bit (5.1.3): the configuration has the device's address. */
const FEATURE_MAC = 1n << 5n;
/** Queues (5.1.2). */
const RECEIVE = 0;
/** The header of each packet (5.1.6): zeros except for the number of its buffers, which is 1. */
const HEADER_BYTES = 12;
const BUFFERS_AT = 10;
/** The longest Ethernet frame, and the smallest buffer of a driver that takes one (5.1.6.3.1). */
export const LONGEST_FRAME = 1514;
const LEAST_BUFFER = HEADER_BYTES + LONGEST_FRAME;
const LONGEST_CHAIN = 2 ** 17;
/** The most frames that wait for the guest; further ones are dropped, which any network may do. */
const MOST_WAITING = 256;
const MAC_BYTES = 6;

/**
 * A network card (5.1) without offloads: Ethernet frames of at most 1514 bytes. Frames that wait are dropped when the machine is paused, as
 * a network may drop any; after a move the card announces its address.
 */
export class NetDevice implements VirtioDevice {
  readonly id = 'virtio-net';
  readonly type = DeviceType.net;
  readonly features = FEATURE_MAC;
  readonly config: Uint8Array;
  readonly version = 1;
  readonly sections = {};
  readonly queues: readonly QueueService[];
  readonly #link: FrameLink;
  readonly #announcer: Announcer;
  #waiting: Uint8Array[] = [];
  #arrived = false;
  #kick: () => void = () => {};

  /**
   * @param mac the address, 6 bytes
   * @param link the connection, which is open while the machine runs
   */
  constructor(mac: Uint8Array, link: FrameLink) {
    if (mac.byteLength !== MAC_BYTES) throw new RangeError(`an address has ${MAC_BYTES} bytes, got ${mac.byteLength}`);
    this.config = Uint8Array.from(mac);
    this.#link = link;
    this.#announcer = new Announcer(mac, (frame) => link.send(frame));
    this.queues = [
      {
        maximumChainBytes: LONGEST_CHAIN,
        ready: () => this.#waiting.length > 0,
        serve: (chain) => this.#receive(chain),
      },
      { maximumChainBytes: LONGEST_CHAIN, serve: (chain) => this.#transmit(chain) },
    ];
  }

  attach({ kick }: DeviceSurroundings): void {
    this.#kick = () => kick(RECEIVE);
  }

  start(): void {
    this.#link.open((frame) => this.#arrives(frame));
    if (this.#arrived) this.#announcer.start();
    this.#arrived = false;
  }

  async stop(): Promise<void> {
    this.#announcer.stop();
    this.#waiting = [];
    await this.#link.close();
  }

  reset(): void {
    this.#waiting = [];
  }

  /**
   * There is no state to load; the guest's address is announced when it runs. A link that a third VMM has is refused here, where the guest can
   * still run on at its source, which has given it back at the pause.
   *
   * @throws GodwitError GODWIT_DEVICE_BUSY
   */
  load(): void {
    this.#link.requireFree?.();
    this.#arrived = true;
  }

  #arrives(frame: Uint8Array): void {
    if (frame.byteLength > LONGEST_FRAME || this.#waiting.length >= MOST_WAITING) return;
    this.#waiting.push(frame);
    this.#kick();
  }

  #receive(chain: DescriptorChain): number {
    if (chain.writableBytes < LEAST_BUFFER) {
      throw new QueueFault(`a buffer for a packet has ${LEAST_BUFFER} bytes or more, got ${chain.writableBytes}`);
    }
    const frame = this.#waiting.shift();
    // A reset has dropped the waiting frames.
    if (frame === undefined) return 0;
    const packet = new Uint8Array(HEADER_BYTES + frame.byteLength);
    packet[BUFFERS_AT] = 1;
    packet.set(frame, HEADER_BYTES);
    chain.write(0, packet);
    return packet.byteLength;
  }

  #transmit(chain: DescriptorChain): number {
    const byteLength = chain.readableBytes - HEADER_BYTES;
    // A chain without a whole header is no packet, and a frame that is too long cannot be sent.
    if (byteLength > 0 && byteLength <= LONGEST_FRAME) this.#link.send(chain.read(HEADER_BYTES, byteLength));
    return 0;
  }
}
