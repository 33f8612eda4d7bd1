import { mkdirSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';

/** Makes a folder in the user's cache, on a disk: outside the checkout, so that a fresh one downloads nothing again. */
export function cacheFolder(name: string): string {
  const caches = process.env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache');
  const folder = join(caches, 'godwit', name);
  mkdirSync(folder, { recursive: true });
  return folder;
}
