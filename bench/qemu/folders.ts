import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { cacheFolder } from './cache-folder.js';

/** The folder for memory files: on tmpfs, so that a guest's memory does not wait for a disk. */
const MEMORY_FOLDER = '/dev/shm';

/** Makes a folder in memory and one on a disk, which are removed when the work has settled. */
export async function withFolders<T>(work: (memory: string, disk: string) => Promise<T>): Promise<T> {
  const memory = mkdtempSync(join(existsSync(MEMORY_FOLDER) ? MEMORY_FOLDER : tmpdir(), 'godwit-judge-'));
  const disk = mkdtempSync(join(cacheFolder('judge'), 'disk-'));
  const remove = (): void => {
    for (const folder of [memory, disk]) rmSync(folder, { recursive: true, force: true });
  };
  // Files on tmpfs outlive the process that made them.
  process.once('exit', remove);
  const onSignal = (): void => process.exit(1);
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, onSignal);
  try {
    return await work(memory, disk);
  } finally {
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.off(signal, onSignal);
    process.off('exit', remove);
    remove();
  }
}
