import type { MigratableVm } from '../device/migratable-vm.js';
import type { RamBlock } from '../memory/guest-memory.js';
import { type MemoryRange, memoryRange, overlap } from '../memory/memory-identity.js';

/** A part of a VM that only one migration at a time may use. */
export interface Part {
  /** Parts with an equal key are the same part: an object, compared by reference, or the identity of memory. */
  readonly key: object | string;
  /** The part is exclusive among the migrations of this direction; `undefined`: among all. */
  readonly direction: 'outgoing' | 'arriving' | undefined;
  /** The part's name in messages: `the dirty tracker "kvm"`. */
  readonly what: string;
  /** The memory of a RAM block that its owner declares shared: both ends of one migration may have it. */
  readonly shared?: boolean;
  /** Where the memory lies, if that is known: parts whose ranges overlap are the same part. */
  readonly range?: MemoryRange | undefined;
}

/** All parts of a VM. Two VM objects over one memory have parts in common. */
export function keysOf(vm: MigratableVm, direction: 'outgoing' | 'arriving'): Part[] {
  const whole = (key: object | string, what: string): Part => ({ key, direction: undefined, what });
  return [
    whole(vm, 'the VM'),
    whole(vm.memory, "the VM's memory"),
    ...vm.memory.blocks.flatMap((block) =>
      memoryOf(block).map((key) => ({
        ...whole(key, `the memory of RAM block "${block.id}"`),
        shared: block.shared === true,
        range: typeof key === 'string' ? memoryRange(key, block.byteLength) : undefined,
      })),
    ),
    ...vm.trackers.map((tracker) => whole(tracker, `the dirty tracker "${tracker.name}"`)),
    ...vm.devices.map((device) => ({ key: device, direction, what: `the device "${device.id}"` })),
  ];
}

/**
 * The first part of `theirs` that conflicts with one of `ours`. `otherEnd`: they are the two ends of one migration, for which memory that
 * both declare shared is no conflict.
 */
export function sharedPart(
  ours: ReadonlyMap<Part['key'], Part>,
  theirs: readonly Part[],
  otherEnd: boolean,
): Part | undefined {
  const conflict = (our: Part, their: Part): boolean => {
    if (otherEnd && our.shared && their.shared) return false;
    return our.direction === undefined || their.direction === undefined || our.direction === their.direction;
  };
  return theirs.find((their) => {
    const our = ours.get(their.key);
    if (our !== undefined) return conflict(our, their);
    const { range } = their;
    if (range === undefined) return false;
    for (const other of ours.values()) {
      if (other.range !== undefined && overlap(range, other.range)) return true;
    }
    return false;
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

/**
 * The keys of a block: the block itself, its identity if it has one, and the buffer under its view, unless that may be a pool. A shared
 * block is not looked at.
 */
function findMemoryOf(block: RamBlock): (object | string)[] {
  const keys: (object | string)[] = [block];
  if (block.identity !== undefined && block.identity !== '') keys.push(block.identity);
  if (block.shared) return keys;
  const { buffer } = block.view(0, 1);
  if (buffer.byteLength <= block.byteLength || buffer.byteLength > LARGEST_POOL) keys.push(buffer);
  return keys;
}
