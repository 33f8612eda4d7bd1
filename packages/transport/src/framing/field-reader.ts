import { type ErrorCode, GodwitError } from '@godwit/core/errors';

/** Reads the fields of one header in order, each with its type and range checked. Further fields are ignored. */
export class FieldReader {
  readonly #frame: string;
  readonly #fields: readonly unknown[];
  #at: number;

  constructor(frame: string, fields: readonly unknown[], first: number) {
    this.#frame = frame;
    this.#fields = fields;
    this.#at = first;
  }

  uint(name: string, maximum = Number.MAX_SAFE_INTEGER): number {
    const value = this.#next();
    if (!isUint(value, maximum)) throw this.bad(name, `an integer from 0 to ${maximum}`, value);
    return value;
  }

  /** A finite number that is not negative; may have a fraction. */
  duration(name: string): number {
    const value = this.#next();
    if (typeof value !== 'number' || !Number.isFinite(value) || value < 0) {
      throw this.bad(name, 'a number of milliseconds', value);
    }
    return value;
  }

  /** An array of `count` durations, or an empty one. */
  durations(name: string, count: number): readonly number[] {
    const values = this.list(name, count, (item) => item.duration(name));
    if (values.length !== 0 && values.length !== count) {
      throw this.bad(name, `no number of milliseconds, or ${count}`, values);
    }
    return values;
  }

  /** True when every field that came was read: further fields are unknown to an older peer. */
  get ended(): boolean {
    return this.#at >= this.#fields.length;
  }

  boolean(name: string): boolean {
    const value = this.#next();
    if (typeof value !== 'boolean') throw this.bad(name, 'true or false', value);
    return value;
  }

  string(name: string, longest: number): string {
    const value = this.#next();
    if (typeof value !== 'string' || value.length > longest) {
      throw this.bad(name, `a string of at most ${longest} characters`, value);
    }
    return value;
  }

  migrationId(name: string): string {
    const value = this.#next();
    if (typeof value !== 'string' || !/^[0-9a-f]{32}$/.test(value)) {
      throw this.bad(name, '32 hexadecimal digits in lower case', value);
    }
    return value;
  }

  oneOf<T extends string>(name: string, values: readonly T[]): T {
    const value = this.#next();
    if (!(values as readonly unknown[]).includes(value)) throw this.bad(name, `one of ${values.join(', ')}`, value);
    return value as T;
  }

  /** A value of any type, which must be there. */
  any(): unknown {
    return this.#next();
  }

  /** An array of at most `most` items. */
  list<T>(name: string, most: number, item: (reader: FieldReader) => T): T[] {
    const values = this.#array(name, most);
    return values.map((value, i) => {
      const fields = Array.isArray(value) ? value : [value];
      return item(new FieldReader(`${this.#frame} ${name}[${i}]`, fields, 0));
    });
  }

  /** A flat list of integers up to `maximum`. */
  uints(name: string, most: number, maximum: number): readonly number[] {
    const values = this.#array(name, most);
    for (let i = 0; i < values.length; i++) {
      if (!isUint(values[i], maximum)) throw this.bad(`${name}[${i}]`, `an integer from 0 to ${maximum}`, values[i]);
    }
    return values as readonly number[];
  }

  /** A flat list of pairs of integers. */
  pairs(name: string, mostPairs: number): readonly number[] {
    const values = this.#array(name, mostPairs * 2);
    if (values.length % 2 !== 0) throw this.bad(name, 'an even number of integers', values);
    for (let i = 0; i < values.length; i++) {
      if (!isUint(values[i], Number.MAX_SAFE_INTEGER))
        throw this.bad(`${name}[${i}]`, 'an integer from 0 to 2^53 - 1', values[i]);
    }
    return values as readonly number[];
  }

  #array(name: string, most: number): readonly unknown[] {
    const value = this.#next();
    if (!Array.isArray(value)) throw this.bad(name, 'an array', value);
    if (value.length > most) {
      throw this.bad(name, `an array of at most ${most} elements`, `one of ${value.length}`, 'GODWIT_LIMIT_EXCEEDED');
    }
    return value;
  }

  #next(): unknown {
    if (this.#at >= this.#fields.length) {
      throw new GodwitError(
        'GODWIT_BAD_STREAM',
        `a ${this.#frame} frame ends after ${this.#fields.length} fields; more must follow`,
      );
    }
    return this.#fields[this.#at++];
  }

  bad(name: string, expected: string, got: unknown, code: ErrorCode = 'GODWIT_BAD_STREAM'): GodwitError {
    return new GodwitError(code, `${this.#frame} frame: ${name} must be ${expected}, got ${show(got)}`);
  }
}

function isUint(value: unknown, maximum: number): value is number {
  return typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= maximum;
}

function show(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value.length > 40 ? `${value.slice(0, 40)}...` : value);
  if (Array.isArray(value)) return `an array of ${value.length}`;
  if (typeof value === 'object' && value !== null) return 'a map or bytes';
  return String(value);
}
