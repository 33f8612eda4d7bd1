import { type ParseArgsConfig, parseArgs } from 'node:util';
import { ArgumentError } from './argument-error.js';
import { nearest } from './nearest.js';

export type OptionTable = NonNullable<ParseArgsConfig['options']>;

/** What `parseArgs` makes of options like these. */
type Parsed<T extends OptionTable> = ReturnType<typeof parseArgs<{ options: T; allowPositionals: true }>>;

/**
 * Reads the options of a command (`''` for none). Throws `ArgumentError` for an option that there is not, with the one that may have been
 * meant, and for one whose value is missing or too much.
 */
export function parseOptions<T extends OptionTable>(command: string, argv: readonly string[], options: T): Parsed<T> {
  const args = [...argv];
  try {
    return parseArgs({ args, options, allowPositionals: true });
  } catch (error) {
    const { tokens } = parseArgs({ args, options, allowPositionals: true, strict: false, tokens: true });
    for (const token of tokens) {
      if (token.kind !== 'option' || token.name in options) continue;
      const meant = nearest(token.name, Object.keys(options));
      const suggestion = meant === undefined ? '' : `; did you mean --${meant}?`;
      const of = command === '' ? 'godwit' : `godwit ${command}`;
      throw new ArgumentError(`${of} has no option ${token.rawName}${suggestion}`, { cause: error });
    }
    throw new ArgumentError((error as Error).message, { cause: error });
  }
}
