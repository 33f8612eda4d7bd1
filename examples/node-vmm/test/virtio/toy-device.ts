import type { DescriptorChain } from '../../dist/virtio/descriptor-chain.js';
import type { QueueService, VirtioDevice } from '../../dist/virtio/virtio-device.js';

/** A device that gives back each byte of a request, one more; a test can hold it in the middle of a request. */
export class ToyDevice implements VirtioDevice {
  readonly id = 'toy';
  readonly type = 42;
  readonly features = 2n;
  readonly config = Uint8Array.of(1, 2, 3, 4);
  readonly version = 1;
  readonly sections = {};
  readonly queues: readonly QueueService[] = [{ maximumChainBytes: 2 ** 20, serve: (chain) => this.#serve(chain) }];
  /** Resolves when a request is held. */
  held: Promise<void> = Promise.resolve();
  #gate: { readonly open: Promise<void>; readonly reached: () => void } | undefined;

  attach(): void {
    // It waits for nothing.
  }

  writeConfig(offset: number, bytes: Uint8Array): void {
    bytes.forEach((byte, i) => {
      if (offset + i < this.config.byteLength) this.config[offset + i] = byte;
    });
  }

  /** Holds the next request, until the returned function is called. */
  hold(): () => void {
    let release = (): void => {};
    const open = new Promise<void>((resolve) => {
      release = resolve;
    });
    this.held = new Promise((resolve) => {
      this.#gate = { open, reached: resolve };
    });
    return release;
  }

  async #serve(chain: DescriptorChain): Promise<number> {
    const bytes = chain.read(0, chain.readableBytes);
    const gate = this.#gate;
    this.#gate = undefined;
    gate?.reached();
    await gate?.open;
    const answer = bytes.map((byte) => byte + 1).subarray(0, chain.writableBytes);
    chain.write(0, answer);
    return answer.byteLength;
  }
}
