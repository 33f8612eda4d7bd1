import { type ParseArgsConfig, parseArgs } from 'node:util';
import { ArgumentError } from './argument-error.js';
import { nearest } from './nearest.js';

export type OptionTable = NonNullable<ParseArgsConfig['options']>;

/** The result of `parseArgs` for these options. */
type Parsed<T extends OptionTable> = ReturnType<typeof parseArgs<{ options: T; allowPositionals: true }>>;

/**
 * Reads the options of a command (`''` for none). Throws `ArgumentError` for an unknown option, and suggests a similar one, and for an
 * option whose value is missing or not allowed.
 */
export function parseOptions<T extends OptionTable>(command: string, argv: readonly string[], options: T): Parsed<T> {
  const args = [...argv];
  try {
    return parseArgs({ args, options, allowPositionals: true });
  } catch (error) {
    const { tokens } = parseArgs({ args, options, allowPositionals: true, strict: false, tokens: true });
    for (const token of tokens) {
      if (token.kind !== 'option' || Object.hasOwn(options, token.name)) continue;
      const meant = nearest(token.name, Object.keys(options));
      const suggestion = meant === undefined ? '' : `; did you mean --${meant}?`;
      const of = command === '' ? 'godwit' : `godwit ${command}`;
      throw new ArgumentError(`${of} has no option ${token.rawName}${suggestion}`, { cause: error });
    }
    throw new ArgumentError((error as Error).message, { cause: error });
  }
}
