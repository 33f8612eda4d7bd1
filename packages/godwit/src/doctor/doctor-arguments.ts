import { ArgumentError } from '../command/argument-error.js';
import { nearest } from '../command/nearest.js';
import { parseOptions } from '../command/parse-options.js';
import { PURPOSES, type Purpose } from './purposes.js';

export const DOCTOR_USAGE = `Usage: godwit doctor [--need LIST] [--json]

Looks at what this host offers to a live migration, tries it out where that leaves nothing behind, and says of what is missing what to
do about it. Nothing is changed.

  --need LIST  what has to work, separated by commas; default: move,kvm
${Object.entries(PURPOSES)
  .map(([name, what]) => `               ${name.padEnd(11)} ${what}\n`)
  .join('')}  --json       one JSON object

Exit status: 0 all that is needed works, 1 some of it does not, 2 the arguments are wrong.
`;

export const DOCTOR_OPTIONS = {
  need: { type: 'string', default: 'move,kvm' },
  json: { type: 'boolean', default: false },
  help: { type: 'boolean', short: 'h', default: false },
} as const;

export interface DoctorRequest {
  readonly need: readonly Purpose[];
  readonly json: boolean;
}

/** Reads the arguments after `doctor`; `undefined` when help was asked for. Throws `ArgumentError`. */
export function doctorRequest(argv: readonly string[]): DoctorRequest | undefined {
  const { values, positionals } = parseOptions('doctor', argv, DOCTOR_OPTIONS);
  if (values.help) return undefined;
  if (positionals.length > 0) throw new ArgumentError(`doctor has options only, got "${positionals.join(' ')}"`);
  const names = Object.keys(PURPOSES) as Purpose[];
  const need = values.need.split(',').map((word) => {
    const name = names.find((one) => one === word.trim());
    if (name !== undefined) return name;
    const meant = nearest(word.trim(), names);
    throw new ArgumentError(
      `--need knows ${names.join(', ')}, got "${word}"${meant === undefined ? '' : `; did you mean ${meant}?`}`,
    );
  });
  return { need, json: values.json };
}
