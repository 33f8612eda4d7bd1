import { GodwitError, migrate, receive } from '@godwit/core';
import { hasKvm, Machine, type MachineConfig, SoftwareMachine, type VirtualMachine } from '@godwit/example-node-vmm';
import {
  BOOT_PARAMS_BYTES,
  checkMemory,
  decodeBootParams,
  GuestLineParser,
  guestImage,
  HeartbeatMonitor,
  PARAMS_ADDRESS,
} from '@godwit/example-node-vmm/guest';
import { connectTo, type ListeningLinks, type TcpListener, tcp } from '@godwit/transport';
import { expect } from '@jest/globals';

const MIB = 2 ** 20;

const CONFIG: MachineConfig = {
  memoryBytes: 32 * MIB,
  vcpus: 2,
  workload: { workingSetBytes: 8 * MIB, pagesPerSecond: 5000, order: 'random' },
};

/**
 * The guest that bad input must not harm: it runs and writes memory in this process, on KVM where there is one, and its
 * heartbeats are watched over all machines that it moves to.
 */
export class LiveGuest {
  readonly problems: string[] = [];
  readonly #parser = new GuestLineParser();
  readonly #monitor = new HeartbeatMonitor();
  #machine: VirtualMachine;
  #beats = 0;
  #waiting: { readonly wanted: number; readonly resolve: () => void } | undefined;

  private constructor(machine: VirtualMachine) {
    this.#machine = machine;
    this.#follow();
  }

  static async boot(): Promise<LiveGuest> {
    const guest = new LiveGuest(await (hasKvm() ? Machine : SoftwareMachine).create(CONFIG));
    await guest.vm.resume();
    await guest.runsOn();
    return guest;
  }

  /** The machine that the guest runs on now. */
  get vm(): VirtualMachine {
    return this.#machine;
  }

  /** A machine for the guest to arrive at, with the guest's own description if no other is given. */
  blank(description: unknown = this.vm.description): Promise<VirtualMachine> {
    return (this.vm.description.kind === 'kvm' ? Machine : SoftwareMachine).fromDescription(description);
  }

  /** Checks that the guest runs, that its heartbeat goes on, and that nothing is wrong with it. */
  async runsOn(): Promise<void> {
    expect(this.vm.state).toBe('running');
    await new Promise<void>((resolve) => {
      this.#waiting = { wanted: this.#beats + 3, resolve };
    });
    expect(this.problems).toEqual([]);
  }

  /**
   * Moves the guest to a machine of the same kind, compares every page, and checks the guest's memory from outside on
   * the new machine.
   */
  async move(links: ListeningLinks<TcpListener>, incoming = this.receive(links)): Promise<void> {
    const source = this.vm;
    const migration = migrate(source, connectTo(tcp({ port: links.listener.port })), {
      description: source.description,
      verify: true,
    });
    const [{ verified }, { vm }] = await Promise.all([migration.result, incoming.result]);
    expect(verified).toBe(true);
    expect(source.state).toBe('paused');
    this.#machine = vm as VirtualMachine;
    await source.close();
    await this.runsOn();
    await this.vm.pause();
    this.#checkMemory();
    await this.vm.resume();
  }

  /** Waits at `links` for the guest to come; the listener follows the guest's console there from the first line. */
  receive(links: ListeningLinks<TcpListener>) {
    return receive(links, {
      prepare: async () => {
        const machine = await this.blank();
        this.#follow(machine);
        return machine;
      },
    });
  }

  async close(): Promise<void> {
    await this.#machine.close();
  }

  #follow(machine: VirtualMachine = this.#machine): void {
    machine.console.subscribe((text) => this.#hear(text));
    machine.events.subscribe((event) => {
      if (event.type === 'defect') this.#problem(`defect ${event.kind}`);
      if (event.type === 'crashed') this.#problem(event.error.message);
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
    if (this.#beats >= (this.#waiting?.wanted ?? Number.POSITIVE_INFINITY)) this.#waiting?.resolve();
  }

  #problem(text: string): void {
    this.problems.push(text);
    this.#waiting?.resolve();
  }

  #checkMemory(): void {
    const { ram, description } = this.vm;
    const params = decodeBootParams(ram.view(PARAMS_ADDRESS, BOOT_PARAMS_BYTES));
    const image = description.kind === 'kvm' ? { image: guestImage() } : {};
    expect(checkMemory(ram, params, image).defects).toEqual([]);
  }
}

/** The error with which a promise rejects; it must be a `GodwitError`. */
export async function failureOf(promise: Promise<unknown>): Promise<GodwitError> {
  const [result] = await Promise.allSettled([promise]);
  if (result.status === 'fulfilled') throw new Error('it succeeded');
  if (!GodwitError.is(result.reason)) throw new Error('not a GodwitError', { cause: result.reason });
  return result.reason;
}
