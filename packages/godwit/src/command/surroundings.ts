import { open } from 'node:fs/promises';
import type { Readable, Writable } from 'node:stream';
import { looksLikeSnapshot } from '@godwit/transport';

/** What a command reads and writes. */
export interface Surroundings {
  readonly stdin: Readable;
  readonly stdout: Writable;
  readonly stderr: Writable;
}

/** What a shell says of a process that SIGPIPE ended. */
export const BROKEN_PIPE_STATUS = 128 + 13;

/** Bytes that are read at once. */
export const READ_BYTES = 256 * 1024;

/** Enough to tell a snapshot. */
const SNIFFED_BYTES = 64;

/** Only of a file that can be read twice: from a pipe, these bytes would be gone. */
export async function isSnapshot(path: string): Promise<boolean> {
  const file = await open(path);
  try {
    if (!(await file.stat()).isFile()) return false;
    const { bytesRead, buffer } = await file.read(new Uint8Array(SNIFFED_BYTES), 0, SNIFFED_BYTES, 0);
    return looksLikeSnapshot(buffer.subarray(0, bytesRead));
  } finally {
    await file.close();
  }
}
