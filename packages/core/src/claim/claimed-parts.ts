import type { MigratableVm } from '../device/migratable-vm.js';
import type { RamBlock } from '../memory/guest-memory.js';

/** Something of a VM that one migration at a time may have. */
export interface Part {
  /** Two parts with an equal key are the same thing: an object by identity, memory that is named by its name. */
  readonly key: object | string;
  /** The part is in one migration at a time only among those of this direction; `undefined`: among all. */
  readonly direction: 'outgoing' | 'arriving' | undefined;
  /** For messages: `the dirty tracker "kvm"`. */
  readonly what: string;
}

/** All parts of a VM. Two VM objects over one memory have parts in common. */
export function keysOf(vm: MigratableVm, direction: 'outgoing' | 'arriving'): Part[] {
  const whole = (key: object | string, what: string): Part => ({ key, direction: undefined, what });
  return [
    whole(vm, 'the VM'),
    whole(vm.memory, "the VM's memory"),
    ...vm.memory.blocks.flatMap((block) =>
      memoryOf(block).map((key) => whole(key, `the memory of RAM block "${block.id}"`)),
    ),
    ...vm.trackers.map((tracker) => whole(tracker, `the dirty tracker "${tracker.name}"`)),
    ...vm.devices.map((device) => ({ key: device, direction, what: `the device "${device.id}"` })),
  ];
}

/** The first part of `theirs` that is among `ours` too. */
export function sharedPart(ours: ReadonlyMap<Part['key'], Part>, theirs: readonly Part[]): Part | undefined {
  return theirs.find(({ key, direction }) => {
    const our = ours.get(key);
    if (our === undefined) return false;
    return our.direction === undefined || direction === undefined || our.direction === direction;
  });
}

/** Found out once for each block: memory that was abandoned since is not mapped any more, and no view of it is asked for. */
const known = new WeakMap<RamBlock, readonly (object | string)[]>();

function memoryOf(block: RamBlock): readonly (object | string)[] {
  let keys = known.get(block);
  if (keys === undefined) {
    keys = findMemoryOf(block);
    known.set(block, keys);
  }
  return keys;
}

/** Buffers of at most so many bytes may be pools, in which Node packs memory of unrelated owners. */
const LARGEST_POOL = 2 ** 16;

/** The block itself, its name where it has one, and the buffer under its view, unless that may be a pool. */
function findMemoryOf(block: RamBlock): (object | string)[] {
  const keys: (object | string)[] = [block];
  if (block.identity !== undefined && block.identity !== '') keys.push(block.identity);
  const { buffer } = block.view(0, 1);
  if (buffer.byteLength <= block.byteLength || buffer.byteLength > LARGEST_POOL) keys.push(buffer);
  return keys;
}
