import type { MigratableVm } from '../device/migratable-vm.js';
import type { RamBlock } from '../memory/guest-memory.js';

/** A part of a VM that only one migration at a time may use. */
export interface Part {
  /** Parts with an equal key are the same part: an object, compared by reference, or the identity of memory. */
  readonly key: object | string;
  /** The part is exclusive among the migrations of this direction; `undefined`: among all. */
  readonly direction: 'outgoing' | 'arriving' | undefined;
  /** The part's name in messages: `the dirty tracker "kvm"`. */
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

/** The first part of `theirs` that conflicts with one of `ours`. */
export function sharedPart(ours: ReadonlyMap<Part['key'], Part>, theirs: readonly Part[]): Part | undefined {
  return theirs.find(({ key, direction }) => {
    const our = ours.get(key);
    if (our === undefined) return false;
    return our.direction === undefined || direction === undefined || our.direction === direction;
  });
}

/** The keys of each block, found once: a view of memory that was abandoned since must not be asked for. */
const known = new WeakMap<RamBlock, readonly (object | string)[]>();

function memoryOf(block: RamBlock): readonly (object | string)[] {
  let keys = known.get(block);
  if (keys === undefined) {
    keys = findMemoryOf(block);
    known.set(block, keys);
  }
  return keys;
}

/** Buffers of at most this many bytes may be pools, in which Node puts memory of unrelated owners. */
const LARGEST_POOL = 2 ** 16;

/** The keys of a block: the block itself, its identity if it has one, and the buffer under its view, unless that may be a pool. */
function findMemoryOf(block: RamBlock): (object | string)[] {
  const keys: (object | string)[] = [block];
  if (block.identity !== undefined && block.identity !== '') keys.push(block.identity);
  const { buffer } = block.view(0, 1);
  if (buffer.byteLength <= block.byteLength || buffer.byteLength > LARGEST_POOL) keys.push(buffer);
  return keys;
}
