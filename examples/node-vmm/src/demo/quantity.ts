/** Parses and formats sizes, rates and times for people. Sizes are binary: 1K = 1024. */

const UNITS: Readonly<Record<string, number>> = { '': 1, K: 2 ** 10, M: 2 ** 20, G: 2 ** 30, T: 2 ** 40 };

/** Reads `512M`, `1.5G`, `6GiB`, `65536`, `100M/s`. Returns `undefined` for anything else. */
export function parseBytes(text: string): number | undefined {
  const match = /^(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?(?:\/s)?$/i.exec(text.trim());
  if (match === null) return undefined;
  const bytes = Number(match[1]) * (UNITS[(match[2] ?? '').toUpperCase()] ?? Number.NaN);
  return Number.isSafeInteger(bytes) ? bytes : Math.round(bytes);
}

/** `512 MiB`, `1.5 GiB`: at most three significant digits before the unit changes. */
export function formatBytes(bytes: number): string {
  const names = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let value = bytes;
  let unit = 0;
  while (value >= 999.5 && unit < names.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${shortNumber(value)} ${names[unit]}`;
}

export function formatRate(bytesPerSecond: number): string {
  return `${formatBytes(bytesPerSecond)}/s`;
}

/** `0.31 ms`, `12.4 ms`, `1.2 s`, `2 min 5 s`. */
export function formatMs(ms: number): string {
  if (!Number.isFinite(ms)) return 'unbounded';
  if (ms < 999.5) return `${shortNumber(ms)} ms`;
  const seconds = ms / 1000;
  if (seconds < 99.95) return `${seconds.toFixed(1)} s`;
  return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
}

/** Formats as `formatMs` does, and below a millisecond as `128 us`. */
export function formatUs(us: number): string {
  return us < 999.5 ? `${shortNumber(us)} us` : formatMs(us / 1000);
}

/** `12 to 60 ms`. */
export function formatRange([low, high]: readonly [low: number, high: number]): string {
  const [from, to] = [formatMs(low), formatMs(high)];
  const unit = ` ${from.split(' ').at(-1)}`;
  return `${to.endsWith(unit) ? from.slice(0, -unit.length) : from} to ${to}`;
}

/** `40 %`, for a number from 0 to 1. */
export function formatShare(share: number): string {
  return `${Math.round(share * 100)} %`;
}

/** `131,072`. */
export function formatCount(count: number): string {
  return Math.round(count).toLocaleString('en-US');
}

function shortNumber(value: number): string {
  if (value === 0 || value >= 99.95) return value.toFixed(0);
  if (value >= 9.995 || Number.isInteger(value)) return value.toFixed(Number.isInteger(value) ? 0 : 1);
  return value.toFixed(2);
}
