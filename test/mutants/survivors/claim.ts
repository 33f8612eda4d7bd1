import type { Survivors } from './survivors.js';

/** Of packages/core/src/claim. */
export const CLAIM: readonly Survivors[] = [
  {
    file: 'claim/claim.ts',
    why: 'an entry that is left behind names memory that no claim has handed over, which `handedOverBy` sees: it costs some bytes',
    mutants: [
      "Claim.takeBack: typeof key !== 'object' -> false",
      'Claim.takeBack: handedOverMemory.delete(key); removed',
      'handedOverBy: handedOverMemory.delete(identity); removed',
    ],
  },
  {
    file: 'claim/claim.ts',
    why: 'no two claims can have handed over one object: the second would have been refused. The comparison guards against a mistake here',
    mutants: ['Claim.takeBack: handedOver.get(key) === this -> true'],
  },
  {
    file: 'claim/claim.ts',
    why: 'without a direction a device conflicts with both, and what leaves was asked for just before',
    mutants: ["claimOf: keysOf(vm, 'arriving') without its last argument"],
  },
  {
    file: 'claim/claimed-parts.ts',
    why: '`find` takes both for no',
    mutants: [
      'sharedPart: false -> undefined',
      'sharedPart: false -> undefined #2',
      'sharedPart.conflict: false -> undefined',
    ],
  },
  {
    file: 'claim/claimed-parts.ts',
    why: 'an object that is taken for the name of a file is equal to itself only, and an equal key is found before',
    mutants: ["keysOf: typeof key === 'string' -> true"],
  },
  {
    file: 'claim/claim.ts',
    why: 'memory of one name overlaps itself',
    mutants: ['handedOverBy: identity !== key && !(range && entry.range && overlap(range, entry.range)) -> right side'],
  },
  {
    file: 'claim/claim.ts',
    why: 'a part whose key is a name has a range; the compiler does not know that',
    mutants: [
      'handedOverBy: range && entry.range && overlap(range, entry.range) -> right side',
      'handedOverBy: range && entry.range -> left side',
      'handedOverBy: range && entry.range -> right side',
    ],
  },
  {
    file: 'claim/claimed-parts.ts',
    why: 'every view of a block is one of the same buffer',
    mutants: [
      'findMemoryOf: block.view(0, 1) without its last argument',
      'findMemoryOf: 0 -> 1',
      'findMemoryOf: 1 -> 2',
    ],
  },
];
