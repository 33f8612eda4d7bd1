/** Where the registers of virtio devices are, guest-physical: in the hole of a PC below its interrupt controllers, outside RAM. */
export const VIRTIO_ADDRESS = 0xd000_0000;
/** The registers of each device have a page. */
export const VIRTIO_SLOT_BYTES = 0x1000;
/** The interrupt of the first device: pins of the IOAPIC that no device of a PC has. Each further device has the next one. */
export const VIRTIO_FIRST_IRQ = 16;

export function slotAddress(device: number): number {
  return VIRTIO_ADDRESS + device * VIRTIO_SLOT_BYTES;
}

export function slotIrq(device: number): number {
  return VIRTIO_FIRST_IRQ + device;
}
