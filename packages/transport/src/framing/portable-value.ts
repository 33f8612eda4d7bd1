import { GodwitError } from '@godwit/core/errors';
import { DEEPEST_NESTING } from './header-guard.js';

/**
 * Turns an embedder's value into one that plain MessagePack carries without loss; throws with the path of a part for
 * which this is impossible.
 *
 * Allowed are null, booleans, numbers, strings, `Uint8Array`s, arrays, plain objects, and bigints of 64 bits.
 * Properties that are `undefined` are left out; `undefined` elsewhere becomes null. Integers beyond 32 bits become
 * bigints, which the packer writes as integers (it would write them as floating point otherwise).
 */
export function portable(value: unknown, path = 'description', depth = 3): unknown {
  if (depth > DEEPEST_NESTING) throw cannot(path, `more than ${DEEPEST_NESTING} levels`);
  switch (typeof value) {
    case 'undefined':
      return null;
    case 'boolean':
    case 'string':
      return value;
    case 'number':
      return integer(value);
    case 'bigint':
      if (value < -(2n ** 63n) || value >= 2n ** 64n) throw cannot(path, 'a bigint of more than 64 bits');
      return value;
    case 'object': {
      if (value === null || value instanceof Uint8Array) return value;
      if (Array.isArray(value)) return value.map((item, i) => portable(item, `${path}[${i}]`, depth + 1));
      const prototype: unknown = Object.getPrototypeOf(value);
      if (prototype !== null && Object.getPrototypeOf(prototype) !== null) {
        throw cannot(path, `an object of class ${value.constructor.name}`);
      }
      const out: Record<string, unknown> = {};
      for (const [key, item] of Object.entries(value)) {
        if (key === '__proto__') throw cannot(path, 'a property "__proto__"');
        if (item !== undefined) out[key] = portable(item, `${path}.${key}`, depth + 1);
      }
      return out;
    }
    default:
      throw cannot(path, `a ${typeof value}`);
  }
}

/** Converts a number so that the packer writes it as an integer. */
export function integer(value: number): number | bigint {
  return Number.isSafeInteger(value) && (value > 0xffffffff || value < -0x80000000) ? BigInt(value) : value;
}

/** Converts a whole list; returns the list itself when no number in it is large. */
export function integers(values: readonly number[]): readonly (number | bigint)[] {
  for (let i = 0; i < values.length; i++) {
    if ((values[i] as number) > 0xffffffff) return values.map(integer);
  }
  return values;
}

function cannot(path: string, what: string): GodwitError {
  return new GodwitError('GODWIT_INVALID_ARGUMENT', `${path} is ${what}; MessagePack cannot carry that to every peer`);
}
