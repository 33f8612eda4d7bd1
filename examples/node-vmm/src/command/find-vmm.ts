import { setTimeout as sleep } from 'node:timers/promises';
import { GodwitError } from '@godwit/core';
import { ControlClient } from '../control/control-client.js';
import { ControlError } from '../control/control-error.js';
import { controlFolder, controlSockets } from '../control/control-folder.js';
import type { VmmStatus } from '../control/control-protocol.js';
import { statusLine } from './status-text.js';

/** How long a VMM may take to report its status in a search. Milliseconds. */
const ANSWER_MS = 3000;
/** The time between two searches for a VMM that is waited for. Milliseconds. */
const LOOK_AGAIN_MS = 100;

export interface FoundVmm {
  readonly client: ControlClient;
  readonly status: VmmStatus;
}

export interface Wanted {
  /** The path of its control socket; without one the VMM is searched for among the user's. */
  readonly control: string | undefined;
  /** How long to wait for the VMM, in milliseconds. */
  readonly waitMs: number;
  /** Which VMMs are accepted, and their description in messages. */
  readonly fits: (status: VmmStatus) => boolean;
  readonly what: string;
}

/** Connects to the wanted VMM. @throws ControlError when there is none, or more than one, or it does not answer */
export async function findVmm(wanted: Wanted): Promise<ControlClient> {
  const deadline = performance.now() + wanted.waitMs;
  for (;;) {
    try {
      return await (wanted.control === undefined ? theOnly(wanted) : ControlClient.connect(wanted.control));
    } catch (error) {
      if (performance.now() >= deadline || !(error instanceof ControlError) || error.code === 'GODWIT_INVALID_ARGUMENT')
        throw error;
    }
    await sleep(LOOK_AGAIN_MS);
  }
}

/** All VMMs of this user that answer, with their status. VMMs that hang are left out. */
export async function allVmms(): Promise<FoundVmm[]> {
  const found = await Promise.all(controlSockets().map((path) => ask(path)));
  return found.filter((one) => one !== undefined);
}

async function theOnly({ fits, what }: Wanted): Promise<ControlClient> {
  const all = await allVmms();
  const fitting = all.filter(({ status }) => fits(status));
  const [first, ...more] = fitting;
  for (const { client } of all) if (more.length > 0 || client !== first?.client) client.close();
  if (first === undefined) {
    const others = all.length === 0 ? '' : `; there are ${all.map(shown).join('; ')}`;
    const message = `no VMM ${what} is found in ${controlFolder()}${others}. Start one with "run" or "receive", or give --control PATH`;
    throw new ControlError({ code: 'GODWIT_CONNECT_FAILED', message, retry: false }, { answered: false });
  }
  if (more.length === 0) return first.client;
  const message = `which one? Give --control PATH: ${fitting.map(shown).join('; ')}`;
  throw new ControlError({ code: 'GODWIT_INVALID_ARGUMENT', message, retry: false }, { answered: false });
}

async function ask(path: string): Promise<FoundVmm | undefined> {
  let client: ControlClient | undefined;
  let timer: NodeJS.Timeout | undefined;
  try {
    client = await ControlClient.connect(path);
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new GodwitError('GODWIT_TIMEOUT', `no answer in ${ANSWER_MS} ms`)), ANSWER_MS);
    });
    const status = await Promise.race([client.ask('status', {}), late]);
    return { client, status };
  } catch {
    client?.close();
    return undefined;
  } finally {
    clearTimeout(timer);
  }
}

function shown({ client, status }: FoundVmm): string {
  return `${client.path} (${statusLine(status)})`;
}
