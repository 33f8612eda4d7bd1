import { GodwitError, type MigratableDevice } from '@godwit/core';
import { InterruptChip, type KvmVm } from '@godwit/linux';
import { requireVersion, StateReader, StateWriter } from '../state/state-sections.js';

const CHIPS: readonly (readonly [tag: string, chip: number])[] = [
  ['PICM', InterruptChip.picMaster],
  ['PICS', InterruptChip.picSlave],
  ['IOAP', InterruptChip.ioapic],
];

/**
 * The state that KVM keeps for the whole VM: both PICs, the IOAPIC, the PIT and the paravirtual clock. It is saved and loaded only
 * while all vCPUs are parked, and loaded before them, since their local APICs communicate with these chips.
 *
 * The paravirtual clock continues from its value at the save; like the time-stamp counter it does not count the time in between.
 */
export class Chipset implements MigratableDevice {
  readonly id = 'chipset';
  readonly version = 1;
  readonly #vm: KvmVm;
  #loaded = false;

  constructor(vm: KvmVm) {
    this.#vm = vm;
  }

  async *save(): AsyncIterable<Uint8Array> {
    const writer = new StateWriter();
    for (const [tag, chip] of CHIPS) writer.section(tag, this.#vm.getIrqchip(chip));
    writer.section('PIT2', this.#vm.getPit2());
    writer.section('CLCK', new Uint8Array(BigUint64Array.of(this.#vm.getClock()).buffer));
    yield writer.finish();
  }

  /** Destination: loads the chips' own initial state, since the first load of a process takes several times as long as the next. */
  rehearseLoad(): void {
    if (this.#loaded) return;
    for (const [, chip] of CHIPS) this.#vm.setIrqchip(this.#vm.getIrqchip(chip));
    this.#vm.setPit2(this.#vm.getPit2());
    this.#vm.setClock(this.#vm.getClock());
  }

  async load(state: AsyncIterable<Uint8Array>, version: number): Promise<void> {
    this.#loaded = true;
    requireVersion(this.id, version, this.version);
    const reader = await StateReader.read(this.id, state, [...CHIPS.map(([tag]) => tag), 'PIT2', 'CLCK']);
    const chips = CHIPS.map(([tag, chip]) => {
      const bytes = reader.required(tag, this.#vm.getIrqchip(chip).byteLength);
      const given = new DataView(bytes.buffer).getUint32(0, true);
      if (given === chip) return bytes;
      throw new GodwitError(
        'GODWIT_DEVICE_FAILED',
        `the section "${tag}" of ${this.id} is of interrupt chip ${given}, not ${chip}`,
      );
    });
    const pit = reader.required('PIT2', this.#vm.getPit2().byteLength);
    const clock = new DataView(reader.required('CLCK', 8).buffer).getBigUint64(0, true);
    for (const bytes of chips) this.#vm.setIrqchip(bytes);
    this.#vm.setPit2(pit);
    this.#vm.setClock(clock);
  }

  /** Returns no pages: KVM keeps this state outside guest memory. */
  loadWrites(): readonly [] {
    return [];
  }
}
