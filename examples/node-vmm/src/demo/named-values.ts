import { suggestion } from '@godwit/core';
import { InvalidArgumentError, type Option } from 'commander';
import { ENCODING_NAMES, type EncodingName } from '../vmm/encodings.js';

/** Makes an option take one of `names`, which its help shows; another value is refused with the names, and with one that is near. */
export function oneOfNames(option: Option, names: readonly string[]): Option {
  return option.choices(names).argParser((text) => {
    if (names.includes(text)) return text;
    throw new InvalidArgumentError(`Allowed choices are ${names.join(', ')}${nearOrEnd(text, names)}`);
  });
}

/** Reads a list of encodings such as `delta,lz4`, each once; an unknown name is refused with the known ones, and with one that is near. */
export function encodings(text: string): readonly EncodingName[] {
  const names = text.split(',');
  const unknown = names.find((name) => !(ENCODING_NAMES as readonly string[]).includes(name));
  if (unknown === undefined) return [...new Set(names)] as EncodingName[];
  throw new InvalidArgumentError(
    `They are some of ${ENCODING_NAMES.join(', ')}, with commas between them${nearOrEnd(unknown, ENCODING_NAMES)}`,
  );
}

/** The end of a message: the suggestion, or a full stop. */
function nearOrEnd(given: string, names: readonly string[]): string {
  const near = suggestion(given, names);
  return near === '' ? '.' : near;
}
