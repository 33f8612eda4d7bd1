import { GENERATION_ADDRESS, GENERATION_IRQ } from '../devices/generation-id.js';
import { POWER_BUTTON_IRQ } from '../devices/power-port.js';
import {
  device,
  EDGE_HIGH,
  interruptResource,
  method,
  named,
  namedBuffer,
  namedString,
  notifyIfArgument,
  numbers,
  scope,
} from './aml.js';

/** The generic event device (ACPI 6.5, 5.6.9), by which interrupts become notifications of other devices. */
const EVENT_DEVICE_ID = 'ACPI0013';
/** The names by which Linux and Windows find the identifier of a machine's generation. */
const GENERATION_ID = 'VMGENCTR';
const GENERATION_COMPATIBLE = 'VM_Gen_Counter';
/** `PNP0C0C`, a power button, in the compressed form of an EISA id. */
const POWER_BUTTON_ID = 0x0c0c_d041;
/** Notifications: the generation has changed; the button was pressed. */
const CHANGED = 0x80;
const PRESSED = 0x80;

/**
 * AML of the devices that notify the guest: the identifier of the machine's generation (Microsoft, "Virtual Machine Generation ID"), the
 * power button, and the device that has their interrupts.
 */
export function eventScope(): Uint8Array {
  const interrupts = [GENERATION_IRQ, POWER_BUTTON_IRQ].map((irq) => interruptResource(irq, EDGE_HIGH));
  return scope('_SB_', [
    device('GED_', [
      namedString('_HID', EVENT_DEVICE_ID),
      named('_UID', numbers([0])),
      namedBuffer('_CRS', interrupts),
      method('_EVT', 1, [
        notifyIfArgument(GENERATION_IRQ, 'VGEN', CHANGED),
        notifyIfArgument(POWER_BUTTON_IRQ, 'PWRB', PRESSED),
      ]),
    ]),
    device('VGEN', [
      namedString('_HID', GENERATION_ID),
      namedString('_CID', GENERATION_COMPATIBLE),
      namedString('_DDN', GENERATION_COMPATIBLE),
      // The guest-physical address, its lower and its upper half.
      named('ADDR', numbers([GENERATION_ADDRESS, 0], 'package')),
    ]),
    device('PWRB', [named('_HID', numbers([POWER_BUTTON_ID])), named('_UID', numbers([0]))]),
  ]);
}
