import { ToyVm } from '@godwit/core/testing';
import { Type1Container, VfioDevice, VfioDeviceSet, VfioGroup, VfioMigratableDevice } from '@godwit/vfio';
import { type DeviceModel, type DeviceModelOptions, VfioModel } from '@godwit/vfio/testing';
import { expect } from '@jest/globals';

const BLOCKS = [{ id: 'ram', guestPhysicalAddress: 0, byteLength: 8 * 4096 }];
/** What a device of the model's knows, as a rule. */
export const STATE = Uint8Array.from({ length: 50 }, (_, i) => i + 1);

/** A VM with devices of the model's, as one end of a migration has it. */
export interface ModelSide {
  readonly vm: ToyVm;
  readonly set: VfioDeviceSet;
  readonly models: readonly DeviceModel[];
  readonly kernel: VfioModel;
  close(): void;
}

const sides: ModelSide[] = [];

/** To be called after each test: closes them all, and looks for descriptors that were left open. */
export function closeSides(): void {
  for (const side of sides.splice(0)) {
    side.close();
    // Sessions, devices, groups and containers alike.
    expect(side.kernel.openDescriptors).toBe(0);
  }
}

export interface ModelSideOptions {
  readonly running: boolean;
  readonly kind?: string;
  /** Default: a `VfioModel`. */
  readonly Kernel?: typeof VfioModel;
}

export function modelSide(
  devices: readonly DeviceModelOptions[],
  { running, kind = 'mdev:model', Kernel = VfioModel }: ModelSideOptions,
): ModelSide {
  const kernel = new Kernel([
    { number: 1, devices: Object.fromEntries(devices.map((options, i) => [`d${i}`, options])) },
  ]);
  const group = VfioGroup.open(1, kernel);
  const container = Type1Container.open([group], kernel);
  const opened = devices.map((_, i) => VfioDevice.open(group, `d${i}`, kernel));
  const set = new VfioDeviceSet(opened.map((device) => new VfioMigratableDevice({ device, kind })));
  const side: ModelSide = {
    vm: new ToyVm(BLOCKS, { running }),
    set,
    kernel,
    models: devices.map((_, i) => kernel.devices.get(`d${i}`) as DeviceModel),
    close() {
      for (const device of opened) device.close();
      container.close();
      group.close();
    },
  };
  sides.push(side);
  return side;
}
