import { chmodSync, lstatSync, unlinkSync } from 'node:fs';
import { link, lstat, rename, stat, unlink } from 'node:fs/promises';
import net from 'node:net';
import { basename, dirname, join } from 'node:path';
import { isMainThread } from 'node:worker_threads';
import { GodwitError } from '@godwit/core';
import { startServer } from './socket-listener.js';

/** The longest path that fits `sun_path` of unix(7), in bytes, without the zero at its end. */
export const LONGEST_PATH = 107;

/**
 * Bytes of the name under which a socket is bound before it gets its final one; shorter where the folder's path leaves less
 * room.
 */
const LONGEST_NAME = 12;
const SHORTEST_NAME = 4;

/** The number of names that are tried, since a short one may exist already. */
const ATTEMPTS = 8;

/**
 * Lets `server` listen at `path`. Resolves with a function that removes this socket file only: if the file was removed or
 * replaced meanwhile, the file of the new listener stays.
 *
 * libuv removes the path that it bound, whatever is there by then. The server therefore binds another name in the same folder,
 * and the socket gets its final name by link(2), which also fails where another listener was faster. `mode`: the rights of the
 * file.
 */
export async function listenAtPath(
  server: net.Server,
  path: string,
  signal: AbortSignal | undefined,
  mode?: number,
): Promise<() => void> {
  const address = `unix:${path}`;
  // A name in the abstract namespace is no file.
  if (path.startsWith('\0')) {
    await startServer(server, { path }, address, signal);
    return () => undefined;
  }
  await mustHaveFolder(path);
  await removeDeadSocket(path);
  const room = LONGEST_PATH - (Buffer.byteLength(path) - Buffer.byteLength(basename(path)));
  if (room < SHORTEST_NAME) {
    await bindAt(server, path, address, signal, mode);
    return () => undefined;
  }
  const bound = await bindBeside(server, path, Math.min(room, LONGEST_NAME), signal, mode);
  try {
    await publish(bound, path);
    const own = await lstat(path);
    return () => {
      // While the socket is open its inode is not given to another file.
      const found = lstatSync(path, { throwIfNoEntry: false });
      if (found?.ino === own.ino && found.dev === own.dev) unlinkSync(path);
    };
  } catch (error) {
    server.close();
    throw error;
  }
}

async function bindBeside(
  server: net.Server,
  path: string,
  length: number,
  signal: AbortSignal | undefined,
  mode: number | undefined,
): Promise<string> {
  for (let attempt = 1; ; attempt++) {
    const name = `.${Array.from({ length: length - 1 }, () => Math.floor(Math.random() * 36).toString(36)).join('')}`;
    const bound = join(dirname(path), name);
    try {
      await bindAt(server, bound, `unix:${path}`, signal, mode);
      return bound;
    } catch (error) {
      if (!GodwitError.is(error)) throw error;
      const { code, retry, cause } = error;
      if ((cause as NodeJS.ErrnoException | undefined)?.code === 'EADDRINUSE' && attempt < ATTEMPTS) continue;
      throw new GodwitError(code, error.message.replaceAll(bound, path), { cause, retry });
    }
  }
}

/** Node binds before `listen` returns: until then the umask withholds from the new file every right that it must not have. */
async function bindAt(
  server: net.Server,
  path: string,
  address: string,
  signal: AbortSignal | undefined,
  mode: number | undefined,
): Promise<void> {
  if (mode === undefined) return startServer(server, { path }, address, signal);
  // Only the main thread may change the umask.
  const before = isMainThread ? process.umask(0o777 & ~mode) : undefined;
  let started: Promise<void>;
  try {
    started = startServer(server, { path }, address, signal);
  } finally {
    if (before !== undefined) process.umask(before);
  }
  await started;
  if (before === undefined) chmodSync(path, mode);
}

/** Gives the bound socket its final name. */
async function publish(bound: string, path: string): Promise<void> {
  try {
    await link(bound, path);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'EEXIST') throw takenMeanwhile(path, error);
    // The file system has no hard links.
    await rename(bound, path);
    return;
  }
  await unlink(bound);
}

async function mustHaveFolder(path: string): Promise<void> {
  const folder = dirname(path);
  try {
    await stat(folder);
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    const why = code === 'ENOENT' ? `there is no folder ${folder} (ENOENT); make it first` : message;
    throw new GodwitError('GODWIT_CONNECT_FAILED', `cannot listen on unix:${path}: ${why}`, {
      cause: error,
      retry: false,
    });
  }
}

async function removeDeadSocket(path: string): Promise<void> {
  const found = await lstat(path, { bigint: true }).catch(() => undefined);
  if (found === undefined) return;
  if (!found.isSocket()) {
    throw new GodwitError(
      'GODWIT_CONNECT_FAILED',
      `cannot listen on unix:${path}: there is a file of another kind (EADDRINUSE); remove it or choose another path`,
      { cause: inUse(path), retry: false },
    );
  }
  if (await isAlive(path)) {
    throw new GodwitError(
      'GODWIT_CONNECT_FAILED',
      `cannot listen on unix:${path}: a living process listens there (EADDRINUSE); stop it or choose another path`,
      { cause: inUse(path) },
    );
  }
  // Another process that also found the dead socket may have put its own there, with the same inode number, since that of the
  // dead one is free.
  const still = lstatSync(path, { bigint: true, throwIfNoEntry: false });
  if (still?.ino === found.ino && still.dev === found.dev && still.ctimeNs === found.ctimeNs) unlinkSync(path);
}

/** Whether a process listens at the path: only a refused connection proves that none does. */
function isAlive(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = net.connect({ path });
    probe.once('connect', () => {
      probe.destroy();
      resolve(true);
    });
    probe.once('error', (error: NodeJS.ErrnoException) => {
      resolve(error.code !== 'ECONNREFUSED' && error.code !== 'ENOENT');
    });
  });
}

function takenMeanwhile(path: string, cause: unknown): GodwitError {
  const message = `cannot listen on unix:${path}: somebody else has begun to listen there (EADDRINUSE); choose another path`;
  return new GodwitError('GODWIT_CONNECT_FAILED', message, { cause: inUse(path, cause) });
}

/** The error that bind(2) would have returned for the path. */
function inUse(path: string, cause?: unknown): NodeJS.ErrnoException {
  const error = new Error(`listen EADDRINUSE: address already in use ${path}`, cause === undefined ? {} : { cause });
  return Object.assign(error, { code: 'EADDRINUSE', syscall: 'listen', address: path });
}
