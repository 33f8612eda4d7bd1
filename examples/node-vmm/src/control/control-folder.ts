import { lstatSync, mkdirSync, readdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { GodwitError } from '@godwit/core';

/** The folder for control sockets without a given path, which belongs to this user alone. */
export function controlFolder(): string {
  const runtime = process.env['XDG_RUNTIME_DIR'];
  return runtime === undefined || runtime === ''
    ? join(tmpdir(), `godwit-${process.getuid?.()}`)
    : join(runtime, 'godwit');
}

/**
 * Makes the folder with mode 0700.
 *
 * @throws GodwitError GODWIT_PERMISSION when the folder belongs to another user, or other users may write to it: another user could put
 * a socket there, to which commands would go
 */
export function makeControlFolder(folder = controlFolder()): string {
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const { uid, mode } = lstatSync(folder);
  if (uid === process.getuid?.() && (mode & 0o022) === 0) return folder;
  throw new GodwitError(
    'GODWIT_PERMISSION',
    `${folder} is not this user's own, or others may write to it: give the path of the control socket with --control`,
  );
}

/** The paths of the sockets in the folder, also those of dead processes: `vmm1.sock`, `vmm2.sock`, ... */
export function controlSockets(folder = controlFolder()): readonly string[] {
  let names: string[];
  try {
    names = readdirSync(folder);
  } catch {
    return [];
  }
  return names
    .filter((name) => SOCKET.test(name))
    .sort((a, b) => numberOf(a) - numberOf(b))
    .map((name) => join(folder, name));
}

export function socketName(n: number): string {
  return `vmm${n}.sock`;
}

const SOCKET = /^vmm(\d+)\.sock$/;

function numberOf(name: string): number {
  return Number(SOCKET.exec(name)?.[1]);
}
