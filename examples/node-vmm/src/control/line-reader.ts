import { GodwitError } from '@godwit/core';
import type { ByteStream } from '@godwit/transport';

const READ_BYTES = 16 * 1024;
const NEWLINE = 0x0a;

/**
 * Yields the lines of a stream, without their ends. At most one line, of `longest` bytes, is kept in memory.
 *
 * @throws GodwitError GODWIT_LIMIT_EXCEEDED for a longer line, and the stream's own errors
 */
export async function* linesOf(stream: ByteStream, longest: number): AsyncGenerator<string, void> {
  const buffer = new Uint8Array(READ_BYTES);
  // The beginning of a line whose end has not come yet.
  let begun: Uint8Array | undefined;
  let kept = 0;
  for (;;) {
    const count = await stream.read(buffer);
    if (count === 0) return;
    const came = buffer.subarray(0, count);
    let from = 0;
    for (let end = came.indexOf(NEWLINE); end !== -1; end = came.indexOf(NEWLINE, from)) {
      if (kept + end - from > longest) throw tooLong(longest);
      const line = Buffer.concat([begun?.subarray(0, kept) ?? new Uint8Array(), came.subarray(from, end)]);
      begun = undefined;
      kept = 0;
      from = end + 1;
      yield line.toString('utf8').replace(/\r$/, '');
    }
    const rest = came.subarray(from);
    if (kept + rest.length > longest) throw tooLong(longest);
    if (rest.length === 0) continue;
    begun ??= new Uint8Array(longest);
    begun.set(rest, kept);
    kept += rest.length;
  }
}

function tooLong(longest: number): GodwitError {
  return new GodwitError('GODWIT_LIMIT_EXCEEDED', `a line has at most ${longest} bytes and ends with a newline`);
}
