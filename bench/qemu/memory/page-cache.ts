import { open } from 'node:fs/promises';
import koffi from 'koffi';

/** bits/fcntl-linux.h */
const POSIX_FADV_DONTNEED = 4;

/** Writes all of a file to the disk. */
export async function synchronize(path: string): Promise<void> {
  const file = await open(path, 'r+');
  try {
    await file.sync();
  } finally {
    await file.close();
  }
}

/** Drops a file that is on the disk from the page cache, so that the next reader reads the disk. */
export async function forget(path: string): Promise<void> {
  const libc = koffi.load('libc.so.6');
  const fadvise = libc.func('int posix_fadvise(int fd, int64_t offset, int64_t length, int advice)');
  const file = await open(path, 'r');
  try {
    const error: number = fadvise(file.fd, 0, 0, POSIX_FADV_DONTNEED);
    if (error !== 0) throw new Error(`posix_fadvise of ${path}: errno ${error}`);
  } finally {
    await file.close();
  }
}
