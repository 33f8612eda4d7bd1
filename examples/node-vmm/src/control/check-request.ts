import { GodwitError, suggestion } from '@godwit/core';
import type { ControlCommand, ControlCommands, RequestLine } from './control-protocol.js';

/** A field of a request: its type, and whether it is required. */
type Field =
  | 'text'
  | 'text, needed'
  | 'yes or no'
  | 'yes or no, needed'
  | 'number'
  | 'number, needed'
  | 'channels'
  | 'names'
  | 'tls files';

type Fields<Command extends ControlCommand> = {
  readonly [Name in keyof Required<ControlCommands[Command]['request']>]: Field;
};

/** The fields of every command. The types above ensure that this table is complete. */
export const COMMANDS: { readonly [Command in ControlCommand]: Fields<Command> } = {
  status: {},
  migrate: {
    to: 'text, needed',
    events: 'yes or no',
    tls: 'tls files',
    live: 'yes or no',
    verify: 'yes or no',
    checksum: 'yes or no',
    policy: 'text',
    postcopy: 'yes or no',
    postcopyBandwidth: 'number',
    encodings: 'names',
    pageChannels: 'channels',
    bandwidthLimit: 'number',
    downtimeLimitMs: 'number',
    pauseLimitMs: 'number',
    timeBudgetMs: 'number',
    connectTimeoutMs: 'number',
    reconnectTimeoutMs: 'number',
    settleTimeoutMs: 'number',
  },
  cancel: { reason: 'text' },
  adjust: { downtimeLimitMs: 'number', bandwidthLimit: 'number', postcopyBandwidth: 'number', policy: 'text' },
  switchover: { force: 'yes or no' },
  postcopy: {},
  settle: {},
  recover: { peerIsDead: 'yes or no, needed' },
  snapshot: {
    path: 'text, needed',
    events: 'yes or no',
    bandwidthLimit: 'number',
    downtimeLimitMs: 'number',
    live: 'yes or no',
    quit: 'yes or no',
  },
  pause: {},
  resume: {},
  balloon: { bytes: 'number, needed' },
  powerButton: {},
  check: {},
  quit: { force: 'yes or no' },
};

const TLS_FILES = ['ca', 'cert', 'key', 'psk', 'servername'];

const LONGEST_ID = 100;

const KINDS: Readonly<Record<string, { readonly is: (value: unknown) => boolean; readonly wanted: string }>> = {
  text: { is: (value) => typeof value === 'string' && value !== '', wanted: 'text' },
  'yes or no': { is: (value) => typeof value === 'boolean', wanted: 'true or false' },
  number: { is: (value) => typeof value === 'number' && value >= 0, wanted: 'a number that is not negative' },
  channels: { is: (value) => value === 'auto' || Number.isInteger(value), wanted: 'a whole number or "auto"' },
  names: {
    is: (value) => Array.isArray(value) && value.every((name) => typeof name === 'string'),
    wanted: 'a list of names',
  },
  'tls files': {
    is: (value) =>
      isObject(value) && Object.entries(value).every(([k, v]) => TLS_FILES.includes(k) && typeof v === 'string'),
    wanted: `an object of paths, with some of ${TLS_FILES.join(', ')}`,
  },
};

/** The `id` of a line, which need not be a valid request. */
export function idOf(line: unknown): RequestLine['id'] {
  const id = isObject(line) ? line['id'] : undefined;
  if (typeof id === 'number') return id;
  return typeof id === 'string' && id.length <= LONGEST_ID ? id : null;
}

/** @throws GodwitError GODWIT_INVALID_ARGUMENT, which says what is wrong, with a suggestion */
export function checkRequest(line: unknown): RequestLine {
  if (!isObject(line)) throw invalid(`a request is an object such as {"id":1,"command":"status"}`);
  const { id: _, command, ...request } = line;
  if (typeof command !== 'string' || !Object.hasOwn(COMMANDS, command)) {
    const names = Object.keys(COMMANDS);
    throw invalid(
      `there is no command ${shown(command)}; there are ${names.join(', ')}${suggestion(String(command), names)}`,
    );
  }
  const fields: Readonly<Record<string, Field>> = COMMANDS[command as ControlCommand];
  for (const [name, value] of Object.entries(request)) {
    const field = Object.hasOwn(fields, name) ? fields[name] : undefined;
    if (field === undefined) {
      const names = Object.keys(fields);
      const known = names.length === 0 ? 'it takes nothing' : `it takes ${names.join(', ')}`;
      throw invalid(`"${command}" takes no ${shown(name)}; ${known}${suggestion(name, names)}`);
    }
    const { is, wanted } = KINDS[field.replace(', needed', '')] as (typeof KINDS)[string];
    if (!is(value)) throw invalid(`${name} of "${command}" has to be ${wanted}, got ${shown(value)}`);
  }
  for (const [name, field] of Object.entries(fields)) {
    if (field.endsWith(', needed') && request[name] === undefined) throw invalid(`"${command}" needs ${name}`);
  }
  return { id: idOf(line), command: command as ControlCommand, request };
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function shown(value: unknown): string {
  return (JSON.stringify(value) ?? 'nothing').slice(0, 80);
}

function invalid(message: string): GodwitError {
  return new GodwitError('GODWIT_INVALID_ARGUMENT', message);
}
