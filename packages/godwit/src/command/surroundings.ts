import { open } from 'node:fs/promises';
import type { Readable, Writable } from 'node:stream';
import { looksLikeSnapshot } from '@godwit/transport';

/** What a command reads and writes. */
export interface Surroundings {
  readonly stdin: Readable;
  readonly stdout: Writable;
  readonly stderr: Writable;
}

/** The exit status that a shell reports for a process that SIGPIPE ended. */
export const BROKEN_PIPE_STATUS = 128 + 13;

/** Bytes of one read. */
export const READ_BYTES = 256 * 1024;

/** Bytes by which a snapshot is recognized. */
const SNIFFED_BYTES = 64;

/**
 * Whether the file is a snapshot. Looks only into a file that can be read twice: bytes read from a pipe would be gone.
 */
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
