import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

/** Folders that were not used for this long are deleted: an older kernel, a module of an older source. */
const UNUSED_AFTER_MS = 30 * 24 * 60 * 60 * 1000;
/** This file is written last: a folder without it was left by a build that did not finish. */
const COMPLETE = '.complete';

/**
 * The cache's folder. It is outside the repository, so that a fresh checkout does not download and build everything
 * again.
 */
export function cacheFolder(): string {
  const caches = process.env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache');
  return join(caches, 'godwit', 'kernel');
}

/**
 * The folder that `build` fills, made once for each `key` and kept between runs; two processes that ask at the same
 * time build it once. The folder has its final path from the start, so that built files may contain the path.
 */
export async function cached(
  name: string,
  key: readonly string[],
  build: (folder: string) => Promise<void>,
): Promise<string> {
  const hash = createHash('sha256').update(key.join('\0')).digest('hex').slice(0, 12);
  const folder = join(cacheFolder(), `${name}-${hash}`);
  const complete = join(folder, COMPLETE);
  if (!existsSync(complete)) {
    mkdirSync(cacheFolder(), { recursive: true });
    const unlock = await lock(`${folder}.lock`);
    try {
      if (!existsSync(complete)) {
        rmSync(folder, { recursive: true, force: true });
        mkdirSync(folder);
        await build(folder);
        writeFileSync(complete, '');
        deleteUnused();
      }
    } finally {
      unlock();
    }
  }
  utimesSync(complete, new Date(), new Date());
  return folder;
}

/**
 * Waits until this process has the lock file. The file holds the process id of the builder, and is void if that process
 * no longer exists.
 */
async function lock(path: string): Promise<() => void> {
  for (let waiting = false; ; ) {
    try {
      writeFileSync(path, String(process.pid), { flag: 'wx' });
      return () => rmSync(path, { force: true });
    } catch (error) {
      if (!(error instanceof Error && 'code' in error && error.code === 'EEXIST')) throw error;
    }
    const owner = ownerOf(path);
    if (!waiting) process.stdout.write(`kernel: process ${owner} is at it already; waiting for it\n`);
    waiting = true;
    if (owner !== undefined && !existsSync(`/proc/${owner}`)) rmSync(path, { force: true });
    await sleep(500);
  }
}

function ownerOf(path: string): number | undefined {
  try {
    const text = readFileSync(path, 'utf8');
    return text === '' ? undefined : Number(text);
  } catch {
    return undefined;
  }
}

function deleteUnused(): void {
  for (const name of readdirSync(cacheFolder())) {
    const complete = join(cacheFolder(), name, COMPLETE);
    if (existsSync(complete) && Date.now() - statSync(complete).mtimeMs > UNUSED_AFTER_MS) {
      rmSync(join(cacheFolder(), name), { recursive: true, force: true });
    }
  }
}
