import { hasKvm, Machine, type MachineConfig, SoftwareMachine, type VirtualMachine } from '@godwit/example-node-vmm';
import {
  BOOT_PARAMS_BYTES,
  checkMemory,
  decodeBootParams,
  describeDefect,
  GuestLineParser,
  guestImage,
  HeartbeatMonitor,
  PARAMS_ADDRESS,
} from '@godwit/example-node-vmm/guest';
import type { MappedGuestMemory } from '@godwit/linux';

const MIB = 2 ** 20;

/**
 * The guest is small, so that thousands of migrations fit into minutes, and busy, so that every round has pages to send.
 */
export const GUEST: MachineConfig = {
  memoryBytes: 16 * MIB,
  vcpus: 1,
  workload: { workingSetBytes: 2 * MIB, pagesPerSecond: 2000, order: 'random' },
};

/**
 * A guest that runs and writes memory in this process, on KVM where there is one. Its heartbeats are followed over all
 * machines that it moves to: each must continue the count of the one before, on whichever machine that was.
 */
export class LiveGuest {
  readonly problems: string[] = [];
  readonly #parser = new GuestLineParser();
  readonly #monitor = new HeartbeatMonitor();
  #machine: VirtualMachine | undefined;
  #beats = 0;
  #wake: (() => void) | undefined;

  static async boot(config: MachineConfig = GUEST): Promise<LiveGuest> {
    const guest = new LiveGuest();
    const machine = await (hasKvm() ? Machine : SoftwareMachine).create(config);
    guest.#follow(machine);
    guest.#machine = machine;
    await machine.resume();
    return guest;
  }

  /** Whether the guest is here and runs. */
  get here(): boolean {
    return this.#machine?.state === 'running';
  }

  /** The machine that the guest runs on. Throws if the guest has not come here yet. */
  get machine(): VirtualMachine {
    if (this.#machine === undefined) throw new Error('the guest is not here');
    return this.#machine;
  }

  /** An empty machine for the guest to arrive at; its console is followed from the first line. */
  async blank(description: unknown, options: Pick<MachineConfig, 'dirtyRing'> = {}): Promise<VirtualMachine> {
    const machine = await (hasKvm() ? Machine : SoftwareMachine).fromDescription(description, options);
    this.#follow(machine);
    return machine;
  }

  /** The same on KVM, with the memory of the machine that the guest comes from. */
  async upgrade(description: unknown, memory: MappedGuestMemory): Promise<Machine> {
    const machine = await Machine.fromDescription(description, { memory });
    this.#follow(machine);
    return machine;
  }

  /** The guest runs on `machine` from now on; the machine before is closed. */
  async moved(machine: VirtualMachine): Promise<void> {
    const old = this.#machine;
    this.#machine = machine;
    await old?.close();
  }

  /**
   * Returns what is wrong with the guest: it does not run, its heartbeats do not go on, or its memory is wrong. The
   * guest runs afterwards.
   */
  async examine(): Promise<readonly string[]> {
    const { machine } = this;
    if (machine.state !== 'running') return [`the guest is ${machine.state}`, ...this.problems.splice(0)];
    if (!(await this.#beatsOn(2))) this.problems.push('no heartbeat for 20 s');
    await machine.pause();
    const { ram, description } = machine;
    const params = decodeBootParams(ram.view(PARAMS_ADDRESS, BOOT_PARAMS_BYTES));
    const image = description.kind === 'kvm' ? { image: guestImage() } : {};
    const { defects } = checkMemory(ram, params, image);
    await machine.resume();
    return [...this.problems.splice(0), ...defects.map(describeDefect)];
  }

  async close(): Promise<void> {
    await this.#machine?.close();
  }

  #follow(machine: VirtualMachine): void {
    machine.console.subscribe((text) => this.#hear(text));
    machine.events.subscribe((event) => {
      if (event.type === 'defect') this.#problem(`defect ${event.kind}`);
      if (event.type === 'crashed') this.#problem(event.error.message);
    });
  }

  #beatsOn(count: number): Promise<boolean> {
    const wanted = this.#beats + count;
    return new Promise((resolve) => {
      const finish = (value: boolean) => {
        clearTimeout(timer);
        this.#wake = undefined;
        resolve(value);
      };
      const timer = setTimeout(() => finish(false), 20_000);
      this.#wake = () => {
        if (this.#beats >= wanted || this.problems.length > 0) finish(true);
      };
    });
  }

  #hear(text: string): void {
    for (const line of this.#parser.push(text)) {
      if (line.type === 'defect') this.#problem(`defect ${line.kind} at ${line.guestPhysicalAddress}`);
      if (line.type === 'other') this.#problem(`not a line of the guest: ${line.text}`);
      if (line.type !== 'heartbeat') continue;
      const wrong = this.#monitor.observe(line);
      if (wrong !== undefined) this.#problem(wrong);
      this.#beats++;
    }
    this.#wake?.();
  }

  #problem(text: string): void {
    this.problems.push(text);
    this.#wake?.();
  }
}
