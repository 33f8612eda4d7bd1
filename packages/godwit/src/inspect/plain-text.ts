/**
 * Makes text of a file safe for a terminal: text of a hostile file must not move the cursor, ring the bell or set the
 * title. Control characters, and characters that reorder or break lines, become escapes as in JavaScript.
 */
export function plainText(text: string): string {
  return text.replace(UNPRINTABLE, (character) => {
    const code = character.codePointAt(0) as number;
    return code < 0x100 ? `\\x${code.toString(16).padStart(2, '0')}` : `\\u${code.toString(16).padStart(4, '0')}`;
  });
}

const UNPRINTABLE = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/gu;

/** A value as JSON. Byte strings become hexadecimal digits, at most `MOST_BYTES` of them, and large integers strings. */
export function toJson(value: unknown): string {
  const text = JSON.stringify(value, (_key, item: unknown) => {
    if (typeof item === 'bigint') return item.toString();
    if (item instanceof Uint8Array) return hex(item);
    return item;
  });
  // JSON allows these characters unescaped, but they must not reach a terminal.
  return text.replace(UNPRINTABLE, (character) =>
    Array.from(
      { length: character.length },
      (_, i) => `\\u${character.charCodeAt(i).toString(16).padStart(4, '0')}`,
    ).join(''),
  );
}

const MOST_BYTES = 256;

function hex(bytes: Uint8Array): string {
  const shown = Buffer.from(bytes.subarray(0, MOST_BYTES)).toString('hex');
  return bytes.length > MOST_BYTES ? `${shown}... (${bytes.length} bytes)` : shown;
}

/** `131,072`. */
export function count(value: number): string {
  return value.toLocaleString('en-US');
}

/** `19.5 MiB`: binary units, three digits or so. */
export function size(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

/** `0.31 ms`, `1,204 ms`. */
export function milliseconds(ms: number): string {
  return ms < 10 ? `${ms.toFixed(2)} ms` : `${count(Math.round(ms))} ms`;
}
