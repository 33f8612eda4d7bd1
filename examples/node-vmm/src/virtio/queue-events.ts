import { Worker } from 'node:worker_threads';
import type { KvmVm } from '@godwit/linux';
import { closeFd, eventfd, writeFd } from '@godwit/linux/unstable';
import { slotAddress } from './mmio-slots.js';
import type { NotifyThreadData } from './notify-thread.js';
import { MmioRegister } from './virtio-numbers.js';
import type { VirtioWords } from './virtio-words.js';

export interface QueueEventsParts {
  readonly words: VirtioWords;
  /** The number of queues of each device, in the order of their slots. */
  readonly queues: readonly number[];
  /** Called on the main thread when queues were notified. */
  onNotified(): void;
}

/**
 * Notifications of queues by KVM itself (KVM_IOEVENTFD): a vCPU that notifies a queue stays in the guest, and a thread of its own waits for
 * the event counter of each queue. Where KVM has no such events, the thread of the vCPU does it: see `MmioWindow`.
 */
export class QueueEvents {
  readonly #fds: readonly number[];
  readonly #stopFd: number;
  readonly #worker: Worker;
  readonly #ended: Promise<void>;
  #closed = false;

  /** Returns undefined where there is no queue, or KVM has no events. Throws `SyscallError`. */
  static of(vm: KvmVm, parts: QueueEventsParts): QueueEvents | undefined {
    return parts.queues.length > 0 && vm.hasEvents ? new QueueEvents(vm, parts) : undefined;
  }

  private constructor(vm: KvmVm, { words, queues, onNotified }: QueueEventsParts) {
    const made: number[] = [];
    const event = (): number => {
      const fd = eventfd();
      made.push(fd);
      return fd;
    };
    try {
      this.#stopFd = event();
      const all = queues.flatMap((count, device) =>
        Array.from({ length: count }, (_, queue) => ({ device, queue, fd: event() })),
      );
      for (const { device, queue, fd } of all) {
        vm.notifyByEvent({ address: slotAddress(device) + MmioRegister.queueNotify, value: queue, fd });
      }
      const workerData: NotifyThreadData = { words: words.words, queues: all, stopFd: this.#stopFd };
      this.#worker = new Worker(new URL('./notify-thread.js', import.meta.url), { workerData, name: 'virtio-events' });
    } catch (error) {
      for (const fd of made) closeFd(fd);
      throw error;
    }
    this.#fds = made;
    this.#worker.on('message', onNotified);
    this.#ended = new Promise((resolve) => this.#worker.once('exit', () => resolve()));
  }

  /** Tells the thread to end, without waiting, for use while the process exits. */
  tellToEnd(): void {
    if (!this.#closed) writeFd(this.#stopFd, new Uint8Array(BigUint64Array.of(1n).buffer));
  }

  /** Ends the thread, and closes the event counters: no vCPU may run any more. Idempotent. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.tellToEnd();
    this.#closed = true;
    await this.#ended;
    for (const fd of this.#fds) closeFd(fd);
  }
}
