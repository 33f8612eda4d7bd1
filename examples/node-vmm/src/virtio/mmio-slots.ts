/** The guest-physical address of the first device's registers: in the hole of a PC below its interrupt controllers, outside RAM. */
export const VIRTIO_ADDRESS = 0xd000_0000;
/** Each device has one page for its registers. */
export const VIRTIO_SLOT_BYTES = 0x1000;
/** The interrupt of the first device, a pin of the IOAPIC that no device of a PC uses. Each further device has the next pin. */
export const VIRTIO_FIRST_IRQ = 16;

export function slotAddress(device: number): number {
  return VIRTIO_ADDRESS + device * VIRTIO_SLOT_BYTES;
}

export function slotIrq(device: number): number {
  return VIRTIO_FIRST_IRQ + device;
}
