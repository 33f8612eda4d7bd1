import { GodwitError } from '@godwit/core/errors';

const MOST_SHOWN = 16;
const LONGEST_TEXT = 200;
const SHORTEST_TEXT = 2;

/**
 * The error for bytes that are not the start of a frame: it shows the bytes, and guesses which program has sent them.
 */
export function foreignBytes(bytes: Uint8Array): GodwitError {
  const shown = bytes.subarray(0, MOST_SHOWN);
  const hex = Array.from(shown, (byte) => byte.toString(16).padStart(2, '0')).join(' ');
  const guess = guessProtocol(String.fromCharCode(...shown), shown);
  const words = guess === undefined ? wordsOf(bytes) : undefined;
  if (words !== undefined) {
    return new GodwitError(
      'GODWIT_BAD_STREAM',
      `expected a frame, which starts with ce, got text: ${words}; usually that is what a login shell prints (let its profile be silent ` +
        'where there is no terminal), or a command that has failed and says so on standard output',
    );
  }
  const hint = guess === undefined ? '' : `; this looks like ${guess}`;
  return new GodwitError('GODWIT_BAD_STREAM', `expected a frame, which starts with ce, got ${hex}${hint}`);
}

/** The bytes in quotation marks, if they are text: without the colours of a terminal, and on one line. */
function wordsOf(bytes: Uint8Array): string | undefined {
  const text = new TextDecoder()
    .decode(bytes.subarray(0, LONGEST_TEXT))
    // The last character may be incomplete.
    .replace(/\ufffd{1,3}$/, '')
    // biome-ignore lint/suspicious/noControlCharactersInRegex: these are a terminal's.
    .replace(/\x1b\[[\d;?]*[A-Za-z]/g, '')
    .trim();
  const isText = text.length >= SHORTEST_TEXT && !/[^\P{C}\s]|\ufffd/u.test(text);
  return isText ? JSON.stringify(text) : undefined;
}

function guessProtocol(text: string, bytes: Uint8Array): string | undefined {
  if (/^(GET|HEAD|POST|PUT|DELETE|OPTIONS|CONNECT|PRI|HTTP\/)/.test(text))
    return 'HTTP; is this the right port? Use webSocket(...) at both sides, or at neither';
  if (/^SSH-/.test(text)) return 'SSH; is this the right port?';
  if (/^QEVM/.test(text)) return "QEMU's own migration stream, which is a different format";
  if (/^godwit snapshot/.test(text)) return 'a snapshot, which is a file to be restored and not a stream';
  if (bytes[0] === 0x16 && bytes[1] === 0x03) {
    return 'TLS; one side encrypts and the other does not: use tls(...) at both, or tcp(...)';
  }
  if (bytes[0] === 0x15 && bytes[1] === 0x03) {
    return 'a TLS alert; one side encrypts and the other does not: use tls(...) at both, or tcp(...)';
  }
  if (bytes.length > 3 && bytes.every((byte) => byte === 0)) return 'zeros';
  return undefined;
}
