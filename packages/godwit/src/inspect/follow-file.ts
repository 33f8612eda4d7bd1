import { type FileHandle, open, stat } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';

/** Bytes of one read. */
const READ_BYTES = 256 * 1024;

/** How often a file is checked that has not grown or does not exist yet, in milliseconds. */
const LOOK_MS = 100;

/**
 * Reads a file that is still being written: at the end of the file it waits for more bytes, until the caller stops reading. When `signal`
 * aborts, the reading ends as at the end of a file. It also waits for a file that does not exist yet. Throws when the file becomes
 * shorter, or when its name belongs to another file.
 */
export async function* followFile(path: string, signal: AbortSignal): AsyncGenerator<Uint8Array, void, undefined> {
  const file = await whenThere(path, signal);
  if (file === undefined) return;
  try {
    const { ino } = await file.stat();
    for (let position = 0; ; ) {
      const { bytesRead, buffer } = await file.read(new Uint8Array(READ_BYTES), 0, READ_BYTES, position);
      position += bytesRead;
      if (bytesRead > 0) {
        yield buffer.subarray(0, bytesRead);
        continue;
      }
      if (signal.aborted) return;
      const { size } = await file.stat();
      if (size < position) throw new Error(`it was cut to ${size} bytes when ${position} had been read`);
      const now = await stat(path).catch(() => undefined);
      if (now !== undefined && now.ino !== ino) throw new Error('another file has its name now');
      await waited(signal);
    }
  } finally {
    await file.close();
  }
}

async function whenThere(path: string, signal: AbortSignal): Promise<FileHandle | undefined> {
  while (!signal.aborted) {
    try {
      return await open(path);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    }
    await waited(signal);
  }
  return undefined;
}

async function waited(signal: AbortSignal): Promise<void> {
  await delay(LOOK_MS, undefined, { signal }).catch(() => {});
}
