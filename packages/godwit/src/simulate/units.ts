import type { WriteRate } from '@godwit/core/simulation';
import { ArgumentError } from '../command/argument-error.js';

const BINARY: Readonly<Record<string, number>> = { '': 1, K: 2 ** 10, M: 2 ** 20, G: 2 ** 30, T: 2 ** 40, P: 2 ** 50 };
const DECIMAL: Readonly<Record<string, number>> = { '': 1, K: 1e3, M: 1e6, G: 1e9, T: 1e12, P: 1e15 };

/** Bytes: `512G` and `512GiB` are binary, `512GB` is decimal. */
export function bytesOf(name: string, text: string): number {
  const match = /^([\d.]+)\s*([KMGTP]?)(i?B)?$/i.exec(text.trim());
  const bytes = match && number(match[1]) * scale(match[2], match[3] === undefined || /^i/i.test(match[3]));
  if (bytes !== null && Number.isFinite(bytes) && bytes >= 0) return Math.round(bytes);
  throw new ArgumentError(`--${name} needs a size such as 512G (GiB) or 512GB, got "${text}"`);
}

/** Bytes per second of a link: `25G` and `25Gbit` are bits per second, `3GB/s` and `3GiB/s` bytes. */
export function linkRateOf(name: string, text: string): number {
  const match = /^([\d.]+)\s*([KMGTP]?)(?:(bits?(?:\/s)?|bps)|(i?B)\/s)?$/i.exec(text.trim());
  if (match !== null) {
    const [, digits, unit, , bytes] = match;
    const rate = number(digits) * (bytes === undefined ? scale(unit, false) / 8 : scale(unit, /^i/i.test(bytes)));
    if (Number.isFinite(rate) && rate > 0) return rate;
  }
  throw new ArgumentError(`--${name} needs a rate such as 25G or 25Gbit (bits per second) or 3GB/s, got "${text}"`);
}

/** Bytes per second: `2G` is 2 GiB/s, `2GB/s` decimal. */
export function byteRateOf(name: string, text: string): number {
  const plain = text.trim().replace(/\/s$/i, '');
  try {
    return bytesOf(name, plain);
  } catch {
    throw new ArgumentError(`--${name} needs bytes per second such as 2G (GiB/s) or 2GB/s, got "${text}"`);
  }
}

/** What a guest writes in a second: as `byteRateOf`, or `500000p` and `500kp/s` in pages. */
export function writeRateOf(name: string, text: string): WriteRate {
  const match = /^([\d.]+)\s*([KMGT]?)\s*p(?:ages)?(?:\/s)?$/i.exec(text.trim());
  if (match === null) {
    try {
      return byteRateOf(name, text);
    } catch {
      throw new ArgumentError(
        `--${name} needs a rate such as 2G (GiB/s), 2GB/s or 500000p (pages per second), got "${text}"`,
      );
    }
  }
  return { pagesPerSecond: number(match[1]) * scale(match[2], false) };
}

/** Milliseconds: `300`, `300ms`, `5s`, `2min`. */
export function millisecondsOf(name: string, text: string): number {
  const match = /^([\d.]+)\s*(ms|s|min|h)?$/i.exec(text.trim());
  const units: Readonly<Record<string, number>> = { ms: 1, s: 1000, min: 60_000, h: 3_600_000 };
  const ms = match && number(match[1]) * (units[(match[2] ?? 'ms').toLowerCase()] as number);
  if (ms !== null && Number.isFinite(ms)) return ms;
  throw new ArgumentError(`--${name} needs a time such as 300 (milliseconds), 5s or 2min, got "${text}"`);
}

/** A whole number of at least `least`. */
export function wholeOf(name: string, text: string, least: number): number {
  const value = Number(text);
  if (text.trim() !== '' && Number.isSafeInteger(value) && value >= least) return value;
  throw new ArgumentError(`--${name} needs a whole number of at least ${least}, got "${text}"`);
}

/** A share: `0.3` or `30%`. */
export function shareOf(name: string, text: string): number {
  const match = /^([\d.]+)\s*(%)?$/.exec(text.trim());
  const share = match && number(match[1]) / (match[2] === undefined ? 1 : 100);
  if (share !== null && share >= 0 && share <= 1) return share;
  throw new ArgumentError(`--${name} needs a share such as 0.3 or 30%, got "${text}"`);
}

function number(text: string | undefined): number {
  return text === undefined || !/^\d+(\.\d+)?$|^\.\d+$/.test(text) ? Number.NaN : Number(text);
}

function scale(unit: string | undefined, binary: boolean): number {
  return (binary ? BINARY : DECIMAL)[(unit ?? '').toUpperCase()] as number;
}
