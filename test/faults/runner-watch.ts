import type { VirtualMachine } from '@godwit/example-node-vmm';
import type { Subscription } from 'rxjs';

/** Checks the machines of one guest whenever one of them starts or stops: two must never run at the same time. */
export class RunnerWatch {
  readonly problems: string[] = [];
  readonly #machines: VirtualMachine[] = [];
  readonly #subscriptions: Subscription[] = [];

  constructor(source: VirtualMachine) {
    this.also(source);
  }

  /** Watches one more machine, and returns it. */
  also(machine: VirtualMachine): VirtualMachine {
    this.#machines.push(machine);
    this.#subscriptions.push(machine.events.subscribe(() => this.#look()));
    return machine;
  }

  end(): void {
    for (const subscription of this.#subscriptions) subscription.unsubscribe();
  }

  #look(): void {
    const running = this.#machines.filter(({ state }) => state === 'running').length;
    if (running > 1) this.problems.push(`${running} MACHINES RUN THE GUEST`);
  }
}
