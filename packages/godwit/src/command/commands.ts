import { DOCTOR_OPTIONS } from '../doctor/doctor-arguments.js';
import { SIMULATE_OPTIONS } from '../simulate/simulate-arguments.js';
import type { OptionTable } from './parse-options.js';

/** A command, as `--help`, suggestions and shell completion need it. */
export interface CommandEntry {
  readonly summary: string;
  readonly options: OptionTable;
  /** The argument after the options: a file name, or one of these words. */
  readonly argument?: 'file' | readonly string[];
}

/** Shells for which there is a completion. */
export const SHELLS = ['bash', 'zsh', 'fish'] as const;

const HELP = { help: { type: 'boolean', short: 'h', default: false } } as const;

export const INSPECT_OPTIONS = {
  json: { type: 'boolean', default: false },
  frames: { type: 'boolean', default: false },
  follow: { type: 'boolean', short: 'f', default: false },
  ...HELP,
} as const;

export const COMMANDS = {
  inspect: {
    summary: 'what is in a recording or a snapshot',
    options: INSPECT_OPTIONS,
    argument: 'file',
  },
  report: {
    summary: 'a recorded migration as one page of HTML',
    options: { output: { type: 'string', short: 'o' }, ...HELP },
    argument: 'file',
  },
  simulate: { summary: 'what a migration would be like', options: SIMULATE_OPTIONS },
  doctor: { summary: 'what this host can do, and what to do where it cannot', options: DOCTOR_OPTIONS },
  completion: { summary: 'completion for a shell', options: HELP, argument: SHELLS },
} as const satisfies Readonly<Record<string, CommandEntry>>;

export type CommandName = keyof typeof COMMANDS;

/** Options without a command. */
export const GLOBAL_OPTIONS = { ...HELP, version: { type: 'boolean', short: 'V', default: false } } as const;
