import { GodwitError } from '@godwit/core';
import type { KvmVcpu } from '@godwit/linux';
import { GeneralRegisters } from '@godwit/linux/kvm';
import type { GuestRam } from '../guest/guest-ram.js';

/** The address at which a PC's BIOS loads and starts the first sector of a disk. */
export const BOOT_IMAGE_ADDRESS = 0x7c00;
/** The end of conventional memory; above it a PC has its video memory and its BIOS. */
const CONVENTIONAL_MEMORY_END = 0xa_0000;
export const BOOT_IMAGE_MAXIMUM_BYTES = CONVENTIONAL_MEMORY_END - BOOT_IMAGE_ADDRESS;

/** The number of the first hard disk, which a BIOS leaves in DL. */
const FIRST_HARD_DISK = 0x80;
/** Bit 1 of RFLAGS is always set. Interrupts are off, since there is no BIOS to handle them. */
const RFLAGS = 0x2;
/** Segment types: Intel SDM volume 3A, 3.4.5.1. */
const CODE = 11;
const DATA = 3;

/** @throws GodwitError GODWIT_INVALID_ARGUMENT when the machine cannot boot the image */
export function checkBootImage(image: Uint8Array, vcpus: number): void {
  if (image.byteLength === 0 || image.byteLength > BOOT_IMAGE_MAXIMUM_BYTES) {
    throw new GodwitError(
      'GODWIT_INVALID_ARGUMENT',
      `a boot image has 1 to ${BOOT_IMAGE_MAXIMUM_BYTES} bytes, got ${image.byteLength}`,
    );
  }
  if (vcpus !== 1) {
    throw new GodwitError('GODWIT_INVALID_ARGUMENT', `a boot image runs on one vCPU, got ${vcpus}`);
  }
}

/**
 * Loads a flat image at 0x7c00 and sets a vCPU to its first byte in real mode, as a PC's BIOS does with the first sector of a disk. The
 * image may be longer than a sector; it has COM1 and the machine's RAM, but no BIOS, so that software interrupts do not work.
 */
export function bootFromImage(ram: GuestRam, vcpu: KvmVcpu, image: Uint8Array): void {
  ram.view(BOOT_IMAGE_ADDRESS, image.byteLength).set(image);
  const special = vcpu.specialRegisters();
  const segment = { base: 0, limit: 0xffff, selector: 0, present: 1, dpl: 0, s: 1, db: 0, l: 0, g: 0, unusable: 0 };
  special.setSegment('cs', { ...segment, type: CODE });
  for (const name of ['ds', 'es', 'fs', 'gs', 'ss'] as const) special.setSegment(name, { ...segment, type: DATA });
  vcpu.setSpecialRegisters(special);
  const general = new GeneralRegisters();
  general.set('rflags', RFLAGS);
  general.set('rip', BOOT_IMAGE_ADDRESS);
  general.set('rsp', BOOT_IMAGE_ADDRESS);
  general.set('rdx', FIRST_HARD_DISK);
  vcpu.setGeneralRegisters(general);
  vcpu.makeRunnable();
}
