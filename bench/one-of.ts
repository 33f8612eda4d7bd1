import { suggestion } from '@godwit/core';
import { Argument, InvalidArgumentError } from 'commander';

/**
 * Makes an argument that is one of `names`, or any number of them where `flags` ends with dots. Another word is refused with the names, and
 * with one that is near.
 */
export function oneOf(flags: string, description: string, names: readonly string[]): Argument {
  const argument = new Argument(flags, description).choices(names);
  return argument.argParser((text: string, before: unknown) => {
    if (!names.includes(text)) {
      const near = suggestion(text, names);
      throw new InvalidArgumentError(`Allowed choices are ${names.join(', ')}${near === '' ? '.' : near}`);
    }
    if (!argument.variadic) return text;
    return [...(Array.isArray(before) ? before : []), text];
  });
}
