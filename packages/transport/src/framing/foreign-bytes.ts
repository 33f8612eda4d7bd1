import { GodwitError } from '@godwit/core/errors';

const MOST_SHOWN = 16;
const LONGEST_TEXT = 64;

/** The error for bytes at a frame's start that are none: shows them, and guesses who is talking. */
export function foreignBytes(bytes: Uint8Array): GodwitError {
  const shown = bytes.subarray(0, MOST_SHOWN);
  const hex = Array.from(shown, (byte) => byte.toString(16).padStart(2, '0')).join(' ');
  const text = String.fromCharCode(...shown);
  const guess = guessProtocol(text, shown);
  const words = guess === undefined ? textOf(bytes) : undefined;
  const looks = guess ?? (words && `text: ${words}; if a shell prints that at login, let it be silent`);
  const hint = looks === undefined ? '' : `; this looks like ${looks}`;
  return new GodwitError('GODWIT_BAD_STREAM', `expected a frame, which starts with ce, got ${hex}${hint}`);
}

/** The bytes as text, if they are words. */
function textOf(bytes: Uint8Array): string | undefined {
  const line = String.fromCharCode(...bytes.subarray(0, LONGEST_TEXT)).trim();
  return /^[\x20-\x7e\s]{4,}$/.test(line) ? JSON.stringify(line) : undefined;
}

function guessProtocol(text: string, bytes: Uint8Array): string | undefined {
  if (/^(GET|HEAD|POST|PUT|DELETE|OPTIONS|CONNECT|PRI|HTTP\/)/.test(text)) return 'HTTP; is this the right port?';
  if (/^SSH-/.test(text)) return 'SSH; is this the right port?';
  if (/^QEVM/.test(text)) return "QEMU's own migration stream, which is a different format";
  if (/^godwit snapshot/.test(text)) return 'a snapshot, which is a file to be restored and not a stream';
  if (bytes[0] === 0x16 && bytes[1] === 0x03) return 'TLS; one side encrypts and the other does not';
  if (bytes[0] === 0x15 && bytes[1] === 0x03) return 'a TLS alert; one side encrypts and the other does not';
  if (bytes.length > 3 && bytes.every((byte) => byte === 0)) return 'zeros';
  return undefined;
}
