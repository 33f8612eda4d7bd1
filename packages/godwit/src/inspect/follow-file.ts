import { type FileHandle, open, stat } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';

/** Bytes that are read at once. */
const READ_BYTES = 256 * 1024;

/** How often a file is looked at that has not grown, or is not there yet, in milliseconds. */
const LOOK_MS = 100;

/**
 * Reads a file that is still being written: at its end it waits for more, until the caller reads no further or `signal` aborts, which ends
 * it as the end of the file does. It waits for a file that is not there yet. Throws when the file is cut, or another one has its name.
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
