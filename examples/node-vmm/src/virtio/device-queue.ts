import { setImmediate } from 'node:timers/promises';
import { GodwitError } from '@godwit/core';
import type { DescriptorChain } from './descriptor-chain.js';
import type { DeviceMemory } from './device-memory.js';
import { QueueFault, type QueueRegisters, SplitQueue } from './split-queue.js';
import type { QueueService } from './virtio-device.js';

/** The most chains that are taken before the event loop has a turn, so that a guest that offers chains without end delays nothing else. */
const CHAINS_A_TURN = 32;

/** The calls of a queue to its transport. */
export interface QueueListener {
  /** A chain was given back to the driver. */
  onUsed(): void;
  /** The driver has broken the queue, and the device needs a reset. */
  onFault(reason: string): void;
}

/**
 * One queue of a device at work: it takes chains one after the other, as many at a time as the device has room for, hands them to the
 * device, and gives them back. It works between `start` and `stop`, while the driver has the queue ready.
 *
 * It awaits the pages of the queue and of each chain before it touches them. A chain is taken only once its pages are there, so that
 * one that waits for pages is not in hand.
 */
export class DeviceQueue {
  readonly #ring: SplitQueue;
  readonly #memory: DeviceMemory;
  readonly #service: QueueService;
  readonly #listener: QueueListener;
  #running = false;
  #faulty = false;
  /** Counts the resets: a chain that was taken before a reset is not returned to the driver. */
  #epoch = 0;
  /** The epoch in which the areas of the queue were checked and found present. */
  #presentEpoch = -1;
  readonly #inHand = new Set<DescriptorChain>();
  #takenThisTurn = 0;
  /** Whether the loop of `#work` runs, and whether it has to look once more. */
  #working = false;
  #kicked = false;
  #idle: (() => void)[] = [];

  constructor(memory: DeviceMemory, maximumSize: number, service: QueueService, listener: QueueListener) {
    this.#ring = new SplitQueue(memory, maximumSize, service.maximumChainBytes);
    this.#memory = memory;
    this.#service = service;
    this.#listener = listener;
  }

  /** Changed by the transport only while `ready` is false. */
  get registers(): QueueRegisters {
    return this.#ring.registers;
  }

  start(): void {
    this.#running = true;
    this.kick();
  }

  /** Takes no more chains. Resolves when none is in hand. */
  async stop(): Promise<void> {
    this.#running = false;
    if (this.#inHand.size === 0) return;
    await new Promise<void>((resolve) => this.#idle.push(resolve));
  }

  /** Forgets the queue: it is not ready, and chains in hand are not given back. */
  reset(): void {
    this.#epoch++;
    for (const chain of this.#inHand) chain.revoke();
    this.#faulty = false;
    this.registers.ready = false;
    this.registers.nextAvailable = 0;
    this.registers.nextUsed = 0;
  }

  /** Looks for chains that the driver has made available. */
  kick(): void {
    this.#kicked = true;
    if (!this.#working) void this.#work();
  }

  get #mayTake(): boolean {
    const { mostInHand = 1 } = this.#service;
    const isUsable = this.#running && !this.#faulty && this.registers.ready;
    return isUsable && this.#inHand.size < mostInHand && (this.#service.ready?.() ?? true);
  }

  async #work(): Promise<void> {
    this.#working = true;
    try {
      while (this.#kicked) {
        this.#kicked = false;
        while (this.#mayTake) {
          const epoch = this.#epoch;
          if (this.#takenThisTurn >= CHAINS_A_TURN) {
            await setImmediate();
            this.#takenThisTurn = 0;
            continue;
          }
          const chain = await this.#next(epoch);
          if (this.#epoch !== epoch) this.#kicked = true;
          if (chain === undefined || this.#epoch !== epoch || !this.#mayTake) break;
          this.#ring.take();
          this.#takenThisTurn++;
          void this.#serve(chain, epoch);
        }
      }
    } catch (error) {
      this.#fail(error);
    } finally {
      this.#working = false;
    }
  }

  /** The next chain, with its pages present. */
  async #next(epoch: number): Promise<DescriptorChain | undefined> {
    if (this.#presentEpoch !== epoch) {
      for (const area of this.#ring.areas()) await this.#memory.present(area);
      if (this.#epoch !== epoch || !this.#mayTake) return undefined;
      this.#presentEpoch = epoch;
    }
    const chain = this.#ring.peek();
    await chain?.present();
    return chain;
  }

  async #serve(chain: DescriptorChain, epoch: number): Promise<void> {
    this.#inHand.add(chain);
    try {
      const written = await this.#service.serve(chain);
      if (this.#epoch === epoch) {
        this.#ring.use(chain.head, written);
        this.#listener.onUsed();
      }
    } catch (error) {
      if (this.#epoch === epoch) this.#fail(error);
    } finally {
      this.#inHand.delete(chain);
      if (this.#inHand.size === 0) for (const resolve of this.#idle.splice(0)) resolve();
      this.kick();
    }
  }

  #fail(error: unknown): void {
    // The pages will never come, so that the guest does not go on either.
    if (GodwitError.is(error) && error.code === 'GODWIT_PAGES_MISSING') return;
    this.#faulty = true;
    const reason = error instanceof QueueFault ? error.message : `the device failed: ${String(error)}`;
    this.#listener.onFault(reason);
  }
}
