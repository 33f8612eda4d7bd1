import { GodwitError } from '@godwit/core';
import type { StateReader, StateWriter } from '../state/state-sections.js';
import type { DescriptorChain } from './descriptor-chain.js';
import type { DeviceSurroundings, QueueService, VirtioDevice } from './virtio-device.js';
import { DeviceType } from './virtio-numbers.js';

/** The two queues (5.3.2): input of the guest, and its output. */
const RECEIVE = 0;
/** The most input that waits for the guest, in bytes: enough for a person's typing, and not for a file. */
const MOST_INPUT_BYTES = 2 ** 20;
/** The largest chain, in bytes: a driver prints at most a page at a time. */
const LONGEST_CHAIN = 2 ** 20;

/** A console with one port (5.3), Linux's `hvc0`. Input that the guest has not read yet moves with the guest. */
export class ConsoleDevice implements VirtioDevice {
  readonly id = 'virtio-console';
  readonly type = DeviceType.console;
  readonly features = 0n;
  readonly config = new Uint8Array(0);
  readonly version = 1;
  readonly sections = { INPT: MOST_INPUT_BYTES };
  readonly queues: readonly QueueService[];
  #waiting: Uint8Array = new Uint8Array(0);
  #print: (text: Uint8Array) => void = () => {};
  #kick: () => void = () => {};

  constructor() {
    this.queues = [
      {
        maximumChainBytes: LONGEST_CHAIN,
        ready: () => this.#waiting.byteLength > 0,
        serve: (chain) => this.#receive(chain),
      },
      { maximumChainBytes: LONGEST_CHAIN, serve: (chain) => this.#transmit(chain) },
    ];
  }

  attach({ kick }: DeviceSurroundings): void {
    this.#kick = () => kick(RECEIVE);
  }

  /** Sets the receiver of the guest's output; called before the machine runs. */
  connect(print: (text: Uint8Array) => void): void {
    this.#print = print;
  }

  /**
   * Types at the console.
   *
   * @throws GodwitError GODWIT_INVALID_STATE when a mebibyte of input waits already; nothing of `bytes` was taken
   */
  typeIn(bytes: Uint8Array): void {
    if (this.#waiting.byteLength + bytes.byteLength > MOST_INPUT_BYTES) {
      throw new GodwitError(
        'GODWIT_INVALID_STATE',
        `the guest does not read its console hvc0: ${this.#waiting.byteLength} bytes wait for it already`,
      );
    }
    this.#waiting = Buffer.concat([this.#waiting, bytes]);
    this.#kick();
  }

  save(writer: StateWriter): void {
    writer.section('INPT', this.#waiting);
  }

  load(reader: StateReader): void {
    const input = reader.required('INPT');
    if (input.byteLength > MOST_INPUT_BYTES) {
      throw new GodwitError(
        'GODWIT_DEVICE_FAILED',
        `the state of ${this.id} has ${input.byteLength} bytes of input, at most ${MOST_INPUT_BYTES} are possible`,
      );
    }
    this.#waiting = input;
  }

  #receive(chain: DescriptorChain): number {
    const bytes = this.#waiting.subarray(0, chain.writableBytes);
    chain.write(0, bytes);
    this.#waiting = this.#waiting.subarray(bytes.byteLength);
    return bytes.byteLength;
  }

  #transmit(chain: DescriptorChain): number {
    this.#print(chain.read(0, chain.readableBytes));
    return 0;
  }
}
