import type { MachineEvent, VirtualMachine } from '@godwit/example-node-vmm';
import {
  BOOT_PARAMS_BYTES,
  checkMemory,
  decodeBootParams,
  GuestLineParser,
  guestImage,
  type HeartbeatLine,
  HeartbeatMonitor,
  PARAMS_ADDRESS,
} from '@godwit/example-node-vmm/guest';
import { expect } from '@jest/globals';

/**
 * Reads the console of the bundled guest on one machine after the other, and collects all problems: heartbeats that repeat or are missing,
 * defects that the guest reports, crashes.
 */
export class ObservedGuest {
  readonly problems: string[] = [];
  text = '';
  beats = 0;
  last: HeartbeatLine | undefined;
  readonly #parser = new GuestLineParser();
  readonly #monitor = new HeartbeatMonitor();
  #waiting: { readonly wanted: number; readonly resolve: () => void }[] = [];

  follow(machine: VirtualMachine): void {
    machine.console.subscribe((text) => this.#hear(text));
    machine.events.subscribe((event: MachineEvent) => {
      if (event.type !== 'defect' && event.type !== 'crashed') return;
      this.problems.push(event.type === 'crashed' ? event.error.message : `defect ${event.kind}`);
      this.#wake();
    });
  }

  /** Resolves after so many further heartbeats, or when something is wrong. */
  moreBeats(count: number): Promise<void> {
    return new Promise((resolve) => {
      this.#waiting.push({ wanted: this.beats + count, resolve });
      this.#wake();
    });
  }

  /** Checks every page of a paused guest from outside. */
  checkMemory(machine: VirtualMachine): void {
    const { ram, description } = machine;
    const params = decodeBootParams(ram.view(PARAMS_ADDRESS, BOOT_PARAMS_BYTES));
    const image = description.kind === 'kvm' ? { image: guestImage() } : {};
    expect(checkMemory(ram, params, image).defects).toEqual([]);
  }

  #hear(text: string): void {
    this.text += text;
    for (const line of this.#parser.push(text)) {
      if (line.type === 'other') this.problems.push(`not a line of the guest: ${line.text}`);
      if (line.type === 'defect')
        this.problems.push(`defect ${line.kind} at 0x${line.guestPhysicalAddress.toString(16)}`);
      if (line.type !== 'heartbeat') continue;
      const wrong = this.#monitor.observe(line);
      if (wrong !== undefined) this.problems.push(wrong);
      this.last = line;
      this.beats++;
    }
    this.#wake();
  }

  #wake(): void {
    const due = this.#waiting.filter(({ wanted }) => this.beats >= wanted || this.problems.length > 0);
    this.#waiting = this.#waiting.filter((waiter) => !due.includes(waiter));
    for (const { resolve } of due) resolve();
  }
}
