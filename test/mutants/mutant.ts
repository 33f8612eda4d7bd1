/** One change to a source file, as a person might make it by mistake. */
export interface Mutant {
  /** The file's path below packages/core/src. */
  readonly file: string;
  /** The function, method or constant in which the change is: `Claim.take`. */
  readonly member: string;
  /** The code that is changed, on one line. */
  readonly code: string;
  /** The change to the code: `-> true`, `removed`. */
  readonly change: string;
  /** A number from 1 that distinguishes equal changes to equal code of one member. */
  readonly nth: number;
  /** The line of the code, from 1. It is for people, and not a part of the identity. */
  readonly line: number;
}

/**
 * A mutant's identity: it stays the same when lines move.
 *
 * @example
 * idOf(mutant); // 'session/pings.ts Pings.answer: next !== undefined -> true'
 */
export function idOf({ file, member, code, change, nth }: Omit<Mutant, 'line'>): string {
  return `${file} ${member}: ${code} ${change}${nth === 1 ? '' : ` #${nth}`}`;
}

/**
 * A 32-bit FNV-1a hash. Samples take mutants in the order of their hashes, which a new mutant does not change for the
 * others.
 */
export function hashOf(text: string, seed: number): number {
  let hash = (0x811c9dc5 ^ seed) >>> 0;
  for (let at = 0; at < text.length; at++) hash = Math.imul(hash ^ text.charCodeAt(at), 0x01000193) >>> 0;
  // FNV gives near hashes to texts with equal beginnings, so that the hash is mixed once more.
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b) >>> 0;
  return (hash ^ (hash >>> 13)) >>> 0;
}
