import { readFileSync } from 'node:fs';
import { type MigratableVm, SoftwareTracker } from '@godwit/core';
import { createGuestMemory } from '@godwit/linux';
import type { DeviceCase } from './cases.js';
import { WaitingDevice } from './waiting-device.js';

const RAM_BYTES = 16 * 2 ** 20;

/** One end: a VM with the devices of a case, whose vCPUs do nothing, and the memory that its process uses beside the guest's. */
export class End {
  readonly vm: MigratableVm;
  readonly #before = residentBytes();
  readonly #timer: NodeJS.Timeout;
  #most = this.#before;

  constructor({ devices }: DeviceCase) {
    const memory = createGuestMemory({
      blocks: [{ id: 'ram', guestPhysicalAddress: 0, byteLength: RAM_BYTES }],
    });
    this.vm = {
      memory,
      trackers: [new SoftwareTracker(memory)],
      devices: devices.map((shape, index) => new WaitingDevice(`device-${index}`, shape)),
      pause: async () => {},
      resume: async () => {},
    };
    this.#timer = setInterval(() => this.#look(), 25);
  }

  /** The largest increase of resident memory so far, without the guest's own. Bytes. */
  mostBytes(): number {
    this.#look();
    return this.#most - this.#before;
  }

  close(): void {
    clearInterval(this.#timer);
  }

  #look(): void {
    this.#most = Math.max(this.#most, residentBytes());
  }
}

/** Resident memory that is not shared: the guest's memory is a memory file, which counts as shared (RssShmem in proc(5)). */
function residentBytes(): number {
  const status = readFileSync('/proc/self/status', 'utf8');
  const kib = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(status)?.[1] ?? 0);
  return (kib('RssAnon') + kib('RssFile')) * 1024;
}
