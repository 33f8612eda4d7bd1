import type { Command } from 'commander';
import type { ControlClient } from '../control/control-client.js';
import { ControlError } from '../control/control-error.js';
import type { VmmStatus } from '../control/control-protocol.js';
import { exitStatusOf, whereaboutsText } from './exit-status.js';
import { findVmm } from './find-vmm.js';
import { number } from './values.js';

/** The options of every command that talks to a running VMM. */
export interface ClientOptions {
  readonly control?: string;
  /** How long to wait for a VMM. Seconds. */
  readonly wait: number;
  readonly json: boolean;
}

export function clientOptions(command: Command): Command {
  return command
    .option('--control <path>', "the VMM's control socket (default: that of the user's only VMM that it can be)")
    .option('--wait <s>', 'how long to wait for that VMM to be there', number(0, 86_400), 0)
    .option('--json', 'print JSON, one object a line', false);
}

/** The kind of VMM that a command is for. */
export interface For {
  readonly fits: (status: VmmStatus) => boolean;
  readonly what: string;
}

export const WITH_GUEST: For = {
  fits: ({ guest }) => guest === 'running' || guest === 'paused',
  what: 'with a guest',
};
export const MIGRATING: For = {
  fits: ({ migration, incoming }) =>
    (migration !== undefined && !over(migration.state)) ||
    (incoming !== undefined && incoming.state !== 'none' && !over(incoming.state)),
  what: 'that takes part in a migration',
};
/** Any VMM, except one whose guest has moved away with all its pages: such a VMM ends by itself. */
export const ANY: For = {
  fits: ({ guest, migration }) => guest !== 'moved' || (migration !== undefined && !over(migration.state)),
  what: 'of this user',
};

/**
 * Asks the chosen VMM; returns the exit status. Errors are printed on standard error, or with `--json` as the last object.
 *
 * @param ask resolves with the output: with `--json` the object, else the lines
 */
export async function askVmm(
  { control, wait, json }: ClientOptions,
  { fits, what }: For,
  ask: (client: ControlClient) => Promise<{ readonly object: object; readonly lines: readonly string[] }>,
): Promise<number> {
  let client: ControlClient | undefined;
  try {
    client = await findVmm({ control, waitMs: wait * 1000, fits, what });
    const { object, lines } = await ask(client);
    for (const line of json ? [JSON.stringify(object)] : lines) process.stdout.write(`${line}\n`);
    return 0;
  } catch (error) {
    return failed(error, json);
  } finally {
    client?.close();
  }
}

/** Prints an error, and returns its exit status. */
export function failed(error: unknown, json = false): number {
  const status = exitStatusOf(error);
  const { message } = error as Error;
  const { code, retry, guest } =
    error instanceof ControlError ? error : ({ ...(error as object) } as Partial<ControlError>);
  if (json) {
    const object = { result: 'failed', exit: status, code, message, retry: retry ?? false, ...(guest && { guest }) };
    process.stdout.write(`${JSON.stringify(object)}\n`);
  }
  const where = whereaboutsText(guest);
  process.stderr.write(
    `error: ${code === undefined ? '' : `${code}: `}${message}${where === '' ? '' : `\n${where}`}\n`,
  );
  return status;
}

function over(state: string): boolean {
  return ['completed', 'failed', 'cancelled'].includes(state);
}
