/** Quantities as text, the same in the log, on the page and in a report. An unknown one is a dash. */
type Quantity = number | null;

const UNKNOWN = '–';
const BYTE_UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
const RATE_UNITS = ['B/s', 'KiB/s', 'MiB/s', 'GiB/s', 'TiB/s'];

/** Made once, since `toLocaleString` makes a new formatter at each call. */
const COUNT = new Intl.NumberFormat('en-US', { maximumFractionDigits: 0 });

/** `1.23 GiB`: three digits. */
export function bytesText(bytes: Quantity): string {
  return bytes === null ? UNKNOWN : scaled(bytes, 1024, BYTE_UNITS);
}

/** Bytes per second, as in `95.3 MiB/s`. */
export function rateText(bytesPerSecond: Quantity): string {
  return bytesPerSecond === null ? UNKNOWN : scaled(bytesPerSecond, 1024, RATE_UNITS);
}

/** `12,345`. */
export function countText(count: Quantity): string {
  return count === null ? UNKNOWN : COUNT.format(count);
}

/** `0.42 ms`, `87 ms`, `4.20 s`, `3 min 05 s`, `2 h 07 min`. */
export function msText(milliseconds: Quantity): string {
  if (milliseconds === null) return UNKNOWN;
  if (milliseconds < 999.5) return `${digits(milliseconds)} ms`;
  const seconds = milliseconds / 1000;
  if (seconds < 99.95) return `${digits(seconds)} s`;
  const whole = Math.round(seconds);
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${two(whole % 60)} s`;
  const minutes = Math.round(seconds / 60);
  return `${Math.floor(minutes / 60)} h ${two(minutes % 60)} min`;
}

/** Microseconds: `16 µs`, and from a millisecond on as `msText` has them. */
export function usText(microseconds: number): string {
  return microseconds < 1000 ? `${Math.round(microseconds)} µs` : msText(microseconds / 1000);
}

/** `80 to 120 ms`, in the unit of the upper end; an unknown end is left open. */
export function rangeText(range: readonly [Quantity, Quantity] | null): string {
  if (range === null) return UNKNOWN;
  const [low, high] = range;
  if (high === null) return low === null ? UNKNOWN : `at least ${msText(low)}`;
  const [lowText, highText] = [msText(low), msText(high)];
  const unit = / (ms|s)$/.exec(highText)?.[0];
  return `${unit !== undefined && lowText.endsWith(unit) ? lowText.slice(0, -unit.length) : lowText} to ${highText}`;
}

/** A share from 0 to 1 as per cent. */
export function shareText(share: Quantity): string {
  return share === null ? UNKNOWN : `${(share * 100).toFixed(share > 0 && share < 0.0995 ? 1 : 0)} %`;
}

function scaled(value: number, step: number, units: readonly string[]): string {
  let amount = value;
  let unit = 0;
  // 999.5 would be shown with four digits.
  while (amount >= 999.5 && unit < units.length - 1) {
    amount /= step;
    unit++;
  }
  return `${unit === 0 ? Math.round(amount) : digits(amount)} ${units[unit]}`;
}

/** Three significant digits. */
function digits(value: number): string {
  if (value === 0) return '0';
  if (value < 9.995) return value.toFixed(2);
  return value < 99.95 ? value.toFixed(1) : value.toFixed(0);
}

function two(value: number): string {
  return String(value).padStart(2, '0');
}
