/** The most devices: one for each pin of the IOAPIC that no device of a PC has. */
export const MAX_VIRTIO_DEVICES = 8;

/** Words of a device. */
export const VirtioWord = {
  /** 1 while a thread changes the interrupt status. */
  lock: 0,
  interruptStatus: 1,
  /** A bit for each queue that was notified since the main thread last read the word. */
  notified: 2,
} as const;
const DEVICE_WORDS = 4;

/** Words of a vCPU: its access to a register that the main thread answers. */
export const CallWord = {
  /** 1 from the call to its answer. */
  pending: 0,
  device: 1,
  offset: 2,
  /** Bytes: 1, 2 or 4. */
  size: 3,
  isWrite: 4,
  /** The value that is written, then the one that was read. */
  value: 5,
} as const;
const CALL_WORDS = 8;

/** Number of words that a machine with so many vCPUs shares for its virtio devices. */
export function virtioWordCount(vcpus: number): number {
  return MAX_VIRTIO_DEVICES * DEVICE_WORDS + vcpus * CALL_WORDS;
}

/** The words that the main thread and the vCPU threads share for the virtio devices: first those of each device, then those of each vCPU. */
export class VirtioWords {
  readonly words: Int32Array<SharedArrayBuffer>;

  /** @param words `virtio` of the `SharedBoard` */
  constructor(words: Int32Array<SharedArrayBuffer>) {
    this.words = words;
  }

  /** The first word of a device. */
  device(index: number): number {
    return index * DEVICE_WORDS;
  }

  /** The first word of a vCPU. */
  call(vcpu: number): number {
    return MAX_VIRTIO_DEVICES * DEVICE_WORDS + vcpu * CALL_WORDS;
  }
}
