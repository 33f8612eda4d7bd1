import { GodwitError } from '../errors.js';
import type { GuestMemory, RamBlock } from '../memory/guest-memory.js';
import { memoryRange, overlap } from '../memory/memory-identity.js';
import type { BlockDescription, HelloFrame } from './frame.js';

/**
 * Checks that no RAM block of the destination is memory of the source's guest: writing it would destroy the guest. Throws
 * `GODWIT_SHARED_MEMORY`. The exception is a block that both declare shared and that is the same range of the same file at both ends.
 */
export function checkNotShared(hello: HelloFrame, { blocks }: GuestMemory): void {
  const mine = blocks.flatMap((own, index) => {
    const range = memoryRange(own.identity, own.byteLength);
    return range === undefined ? [] : [{ own, index, range }];
  });
  if (mine.length === 0) return;
  for (const [at, theirs] of hello.blocks.entries()) {
    const range = memoryRange(theirs.identity, theirs.byteLength);
    if (range === undefined) continue;
    const same = mine.find((my) => overlap(range, my.range) && !(my.index === at && isSharedPair(theirs, my.own)));
    if (same === undefined) continue;
    throw new GodwitError(
      'GODWIT_SHARED_MEMORY',
      `RAM block "${theirs.id}" of the source and "${same.own.id}" of the destination are the same memory (${theirs.identity}): ` +
        `receiving would overwrite the guest. ${advice(theirs, same.own)}`,
    );
  }
}

/**
 * Checks that both sides declare the same blocks shared, and that each of them is the same memory at both ends. Throws
 * `GODWIT_SHARED_MEMORY`. The blocks agree in number, names and lengths.
 */
export function checkSharedBlocks(hello: HelloFrame, { blocks }: GuestMemory): void {
  for (const [index, theirs] of hello.blocks.entries()) {
    const own = blocks[index] as RamBlock;
    if (theirs.shared !== true && own.shared !== true) continue;
    if (isSharedPair(theirs, own)) continue;
    throw new GodwitError(
      'GODWIT_SHARED_MEMORY',
      `RAM block "${own.id}" cannot be shared: the source has ${told(theirs)}, the destination ${told(own)}. ${advice(theirs, own)}`,
    );
  }
}

/**
 * Whether both owners declare the block shared and their identities prove it: both name the same range of the same file in the same boot
 * of one host.
 */
function isSharedPair(theirs: BlockDescription, own: RamBlock): boolean {
  const both = theirs.shared === true && own.shared === true;
  const { identity = '', byteLength } = own;
  return both && identity !== '' && theirs.identity === identity && theirs.byteLength === byteLength;
}

function told({ shared, identity = '' }: Pick<RamBlock, 'shared' | 'identity'>): string {
  const memory = identity === '' ? 'memory without an identity' : identity;
  return shared ? memory : `${memory}, not declared shared`;
}

function advice(theirs: Pick<RamBlock, 'shared'>, own: Pick<RamBlock, 'shared'>): string {
  return theirs.shared && own.shared
    ? 'A shared block must be the same part of the same memory file at both ends, on one host'
    : 'Give the destination memory of its own; or, where both sides are to map one memory file on one host, declare the block shared at both ends';
}

/** Checks the source's own blocks before anything else is done. Throws `GODWIT_SHARED_MEMORY` for a shared block without an identity. */
export function checkIdentities({ blocks }: GuestMemory): void {
  for (const { id, shared, identity = '' } of blocks) {
    if (!shared || identity !== '') continue;
    throw new GodwitError(
      'GODWIT_SHARED_MEMORY',
      `RAM block "${id}" is declared shared, but has no identity, so that nobody can tell whether both sides map the same memory; ` +
        'give the block an identity, or leave shared out',
    );
  }
}

/**
 * Checks that the guest may be taken back after `go`, which is refused when the destination's guest may have written memory of the
 * source's guest. Throws `GODWIT_SHARED_MEMORY`. `call` names what was called, for the message.
 */
export function checkNothingShared({ blocks }: GuestMemory, call: string): void {
  const block = blocks.find(({ shared }) => shared === true);
  if (block === undefined) return;
  throw new GodwitError(
    'GODWIT_SHARED_MEMORY',
    `${call} is refused: the destination maps RAM block "${block.id}" too, and its guest may have written it since "go", so that the ` +
      "state of this side's devices and vCPUs does not fit it any more. Close this VM's memory; the guest can only be run on where it " +
      'was handed over to, or be started anew',
  );
}
