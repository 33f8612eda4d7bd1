export { monotonicMicroseconds } from './devices/monotonic-clock.js';
export { hasKvm, Machine } from './machine/machine.js';
export {
  type GuestProgram,
  type GuestWorkload,
  type MachineConfig,
  type MachineDescription,
  type MachineKind,
  parseDescription,
} from './machine/machine-config.js';
export { MAX_MEMORY_BYTES, MIN_MEMORY_BYTES } from './machine/memory-map.js';
export type { MachineEvent, VirtualMachine } from './machine/virtual-machine.js';
export { SoftwareMachine } from './software/software-machine.js';
export { StateReader, StateWriter } from './state/state-sections.js';
export { MAX_VCPUS } from './vcpu/shared-board.js';
export type { DiskChoice, VirtioChoice, VirtioHost } from './virtio/virtio-devices.js';
