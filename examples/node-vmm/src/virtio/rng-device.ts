import { randomFillSync } from 'node:crypto';
import type { DescriptorChain } from './descriptor-chain.js';
import type { QueueService, VirtioDevice } from './virtio-device.js';
import { DeviceType } from './virtio-numbers.js';

/** The largest chain, in bytes: a driver asks for some dozens. */
const LONGEST_CHAIN = 2 ** 20;
/** The most bytes of one answer, so that the event loop is not held up. A driver asks again for the rest. */
const MOST_AT_ONCE = 4096;

/** A source of random bytes (5.4), which come from the host's kernel. It has no state of its own. */
export class RngDevice implements VirtioDevice {
  readonly id = 'virtio-rng';
  readonly type = DeviceType.rng;
  readonly features = 0n;
  readonly config = new Uint8Array(0);
  readonly version = 1;
  readonly sections = {};
  readonly queues: readonly QueueService[];

  /** @param fill fills bytes at random */
  constructor(fill: (bytes: Uint8Array) => void = randomFillSync) {
    const serve = (chain: DescriptorChain): number => {
      const bytes = new Uint8Array(Math.min(chain.writableBytes, MOST_AT_ONCE));
      fill(bytes);
      chain.write(0, bytes);
      return bytes.byteLength;
    };
    this.queues = [{ maximumChainBytes: LONGEST_CHAIN, serve }];
  }

  attach(): void {
    // The device waits only for its driver.
  }
}
