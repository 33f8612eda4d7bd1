import { GodwitError, quoted } from './errors.js';

/**
 * Throws `GODWIT_INVALID_ARGUMENT` unless `value` is a finite number of at least 0.
 *
 * @example
 * const limit = nonNegative('bandwidthLimit', options.bandwidthLimit ?? 0);
 */
export function nonNegative(name: string, value: number): number {
  if (Number.isFinite(value) && value >= 0) return value;
  throw invalid(`${name} must be a number of at least 0, got ${quoted(value)}`);
}

/** Throws `GODWIT_INVALID_ARGUMENT` for an option that is neither left out nor a number from `least` to `most`. */
export function inRange(name: string, value: number | undefined, least: number, most = Number.POSITIVE_INFINITY): void {
  if (value === undefined || (Number.isFinite(value) && value >= least && value <= most)) return;
  const range = most === Number.POSITIVE_INFINITY ? `of at least ${least}` : `from ${least} to ${most}`;
  throw invalid(`${name} must be a number ${range}, got ${quoted(value)}`);
}

/** Returns `value`, or `otherwise` where it is left out; throws `GODWIT_INVALID_ARGUMENT` unless it is true or false. */
export function flag(name: string, value: boolean | undefined, otherwise: boolean): boolean {
  if (value === undefined || typeof value === 'boolean') return value ?? otherwise;
  throw invalid(`${name} must be true or false, got ${quoted(value)}`);
}

/**
 * Returns `value`; throws `GODWIT_INVALID_ARGUMENT` unless it is an object that has these methods.
 *
 * @param what what it should be, as the message says it: `connectTo takes a transport, such as tcp() returns`
 */
export function withMethods<T extends object>(what: string, value: T, methods: readonly (keyof T & string)[]): T {
  const isObject = (typeof value === 'object' && value !== null) || typeof value === 'function';
  if (isObject && methods.every((name) => typeof value[name] === 'function')) return value;
  const lacking = isObject ? methods.filter((name) => typeof value[name] !== 'function') : [];
  const without = lacking.length === 0 ? '' : ` without ${lacking.map((name) => `${name}()`).join(', ')}`;
  throw invalid(`${what}, got ${quoted(value)}${without}`);
}

/** Returns `value`; throws `GODWIT_INVALID_ARGUMENT`, with a suggestion where one is near, unless it is one of `values`. */
export function oneOf<T extends string>(name: string, value: T, values: readonly T[]): T {
  if (values.includes(value)) return value;
  const known = values.map((one) => JSON.stringify(one)).join(' or ');
  throw invalid(`${name} must be ${known}, got ${chosen(value)}${suggestion(String(value), values)}`);
}

/**
 * Refuses options that do not exist: a misspelt one would otherwise be left out in silence, and its default used. For authors of
 * transports, encodings and policies too.
 *
 * Throws `GODWIT_INVALID_ARGUMENT` with the name that was given, one that is near, or else all that there are.
 *
 * @param what whose options they are, as its user wrote it: `tcp`
 * @param known every option of `T`, so that one that is added or renamed does not compile until it is here
 *
 * @example
 * checkOptions<TcpOptions>('tcp', options, { host: true, port: true, connectTimeoutMs: true, keepAliveMs: true });
 * // tcp has no option "hots"; did you mean "host"?
 */
export function checkOptions<T extends object>(
  what: string,
  options: T,
  known: Readonly<Record<keyof Required<T>, true>>,
): void {
  if (typeof options !== 'object' || options === null || Array.isArray(options)) {
    throw invalid(`${what} takes an object with options, got ${quoted(options)}`);
  }
  const names = Object.keys(known);
  for (const name of Object.keys(options)) {
    if (Object.hasOwn(known, name)) continue;
    const near = suggestion(name, names);
    throw invalid(
      `${what} has no option ${JSON.stringify(name)}${near === '' ? `; it has ${[...names].sort().join(', ')}` : near}`,
    );
  }
}

/** The text that shows a value in an error message: text is shown in quotation marks where the mistake is its type. */
export function chosen(value: unknown): string {
  return typeof value === 'string' ? JSON.stringify(value) : quoted(value);
}

/**
 * `; did you mean "host"?`, or nothing where no name is near.
 *
 * @example
 * suggestion('hots', ['host', 'port']); // '; did you mean "host"?'
 */
export function suggestion(given: string, names: readonly string[]): string {
  const ranked = names
    .map((name) => ({ name, distance: editDistance(given.toLowerCase(), name.toLowerCase()) }))
    .sort((a, b) => a.distance - b.distance);
  const [nearest] = ranked;
  // "downtimeLimit" for "downtimeLimitMs": a missing unit is the most frequent mistake.
  const unit = names.find((name) => name.toLowerCase() === `${given.toLowerCase()}ms`);
  if (unit !== undefined) return `; did you mean ${JSON.stringify(unit)}?`;
  if (nearest === undefined || nearest.distance > Math.max(1, Math.floor(given.length / 4))) return '';
  return `; did you mean ${JSON.stringify(nearest.name)}?`;
}

/** Changes of one character, and exchanges of two neighbours, that make one text of the other (optimal string alignment). */
function editDistance(from: string, to: string): number {
  let before: number[] = [];
  let above = Array.from({ length: to.length + 1 }, (_, at) => at);
  for (let i = 1; i <= from.length; i++) {
    const row = [i];
    for (let j = 1; j <= to.length; j++) {
      const same = from[i - 1] === to[j - 1] ? 0 : 1;
      let least = Math.min((above[j] ?? 0) + 1, (row[j - 1] ?? 0) + 1, (above[j - 1] ?? 0) + same);
      const exchanged = i > 1 && j > 1 && from[i - 1] === to[j - 2] && from[i - 2] === to[j - 1];
      if (exchanged) least = Math.min(least, (before[j - 2] ?? 0) + 1);
      row.push(least);
    }
    before = above;
    above = row;
  }
  return above[to.length] ?? 0;
}

function invalid(message: string): GodwitError {
  return new GodwitError('GODWIT_INVALID_ARGUMENT', message);
}
