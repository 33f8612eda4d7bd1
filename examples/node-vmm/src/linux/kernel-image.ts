/** A Linux kernel: the parts of its file with their addresses in guest memory, and its entry. */
export interface KernelImage {
  /** Parts of the file, and their guest-physical addresses. */
  readonly segments: readonly { readonly address: number; readonly bytes: Uint8Array }[];
  /** Guest-physical. With a setup header it is entered in 64-bit mode, without one as a PVH guest, in 32-bit mode. */
  readonly entry: number;
  /** The memory that the kernel needs from its lowest address on before it reads the memory map, in bytes. */
  readonly neededBytes: number;
  /** The setup header of a bzImage, to be copied into the boot parameters from `SETUP_HEADER` on. */
  readonly setupHeader?: Uint8Array;
  /** Most bytes of the command line, without the zero that ends it. */
  readonly commandLineBytes: number;
  /** The end of the memory in which the initrd may be. */
  readonly initrdEnd: number;
}
