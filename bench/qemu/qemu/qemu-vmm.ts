import type { Vmm } from '../vmm.js';
import { QemuProcess } from './qemu-process.js';
import type { UnpackedQemu } from './unpacked-qemu.js';

/** @param scratch a folder in memory (tmpfs) for disks, sockets and memory files */
export function qemuVmm(qemu: UnpackedQemu, scratch: string): Vmm {
  return {
    name: `QEMU ${qemu.version}`,
    boot: (spec) => QemuProcess.start(qemu, spec, 'source', scratch),
    empty: (spec) => QemuProcess.start(qemu, spec, 'destination', scratch),
  };
}
