import { constants } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { GodwitError } from '@godwit/core';
import { addressOf, HOST_PAGE_SIZE } from '@godwit/linux/unstable/libc';

/** Bytes that begin at a page, as O_DIRECT (open(2)) requires. */
export function alignedBytes(byteLength: number): Uint8Array {
  const room = new Uint8Array(byteLength + HOST_PAGE_SIZE);
  const beyond = Number(addressOf(room) % BigInt(HOST_PAGE_SIZE));
  return room.subarray((HOST_PAGE_SIZE - beyond) % HOST_PAGE_SIZE).subarray(0, byteLength);
}

/**
 * Opens a file once more, past the host's page cache (O_DIRECT), and closes the given one. One sector is read, since some storage takes only
 * larger ones, and a guest's requests are of any number of sectors.
 *
 * @throws GodwitError GODWIT_INVALID_ARGUMENT where the file system or the storage does not take such requests; `file` is still open then
 */
export async function reopenDirect(
  file: FileHandle,
  { path, flags, byteLength, sectorBytes }: { path: string; flags: number; byteLength: number; sectorBytes: number },
): Promise<FileHandle> {
  let direct: FileHandle | undefined;
  try {
    direct = await open(`/proc/self/fd/${file.fd}`, flags | constants.O_DIRECT);
    await direct.read(alignedBytes(sectorBytes), 0, sectorBytes, byteLength - sectorBytes);
  } catch (cause) {
    await direct?.close();
    const { code } = cause as NodeJS.ErrnoException;
    throw new GodwitError(
      'GODWIT_INVALID_ARGUMENT',
      `the disk ${path} cannot be accessed past the page cache, in sectors of ${sectorBytes} bytes (O_DIRECT, ${code}): leave out "direct"`,
      { cause },
    );
  }
  await file.close();
  return direct;
}
