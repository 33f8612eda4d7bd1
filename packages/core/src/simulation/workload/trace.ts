import { GodwitError } from '../../errors.js';
import type { DirtyBitmap } from '../../memory/dirty-bitmap.js';
import type { TraceEntry, Workload } from './workload.js';

interface TracedMemory {
  readonly populatedBytes: number;
  readonly pageSize: number;
}

/** Replays a recorded trace. The trace is read once, and held as numbers: 24 bytes an entry. */
export class TraceWriter {
  readonly #times: Float64Array;
  readonly #first: Float64Array;
  readonly #end: Float64Array;
  readonly #repeat: boolean;
  readonly #lengthMs: number;

  /** @throws GodwitError GODWIT_INVALID_ARGUMENT, with the number of the entry that is wrong */
  constructor({ writes, pageSize = 4096, repeat = false }: Extract<Workload, { kind: 'trace' }>, memory: TracedMemory) {
    const times: number[] = [];
    const first: number[] = [];
    const end: number[] = [];
    let before = 0;
    for (const entry of writes) {
      check(entry, before, times.length + 1, pageSize, memory);
      before = entry.ms;
      times.push(entry.ms);
      first.push(Math.floor((entry.firstPage * pageSize) / memory.pageSize));
      end.push(Math.ceil(((entry.firstPage + entry.count) * pageSize) / memory.pageSize));
    }
    this.#times = Float64Array.from(times);
    this.#first = Float64Array.from(first);
    this.#end = Float64Array.from(end);
    this.#repeat = repeat && times.length > 0;
    // The trace is 1 ms longer than the time of its last entry, so that the entry is part of it.
    this.#lengthMs = before + 1;
  }

  write(from: number, to: number, marks: DirtyBitmap): void {
    if (!this.#repeat) {
      this.#mark(from, to, marks);
      return;
    }
    for (let at = from; at < to; ) {
      const begin = cycleBegin(at, this.#lengthMs);
      const stop = Math.min(to, begin + this.#lengthMs);
      this.#mark(at - begin, stop - begin, marks);
      at = stop;
    }
  }

  #mark(from: number, to: number, marks: DirtyBitmap): void {
    const times = this.#times;
    for (let i = this.#find(from); i < times.length && (times[i] as number) < to; i++) {
      const first = this.#first[i] as number;
      marks.setRange(first, (this.#end[i] as number) - first);
    }
  }

  /** Index of the first entry at `ms` or later. */
  #find(ms: number): number {
    let low = 0;
    let high = this.#times.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#times[middle] as number) < ms) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

/**
 * The beginning of the cycle of `periodMs` in which `ms` lies. The difference is less than a period, however the division is
 * rounded.
 */
export function cycleBegin(ms: number, periodMs: number): number {
  const begin = Math.floor(ms / periodMs) * periodMs;
  return begin + periodMs <= ms ? begin + periodMs : begin;
}

function check(
  { ms, firstPage, count }: TraceEntry,
  before: number,
  number: number,
  page: number,
  memory: TracedMemory,
) {
  if (!(Number.isFinite(ms) && ms >= before)) {
    throw new GodwitError(
      'GODWIT_INVALID_ARGUMENT',
      `entry ${number} of the trace is at ${ms} ms, after one at ${before} ms: the times must ascend`,
    );
  }
  const whole = Number.isSafeInteger(firstPage) && Number.isSafeInteger(count) && firstPage >= 0 && count > 0;
  if (whole && (firstPage + count) * page <= memory.populatedBytes) return;
  throw new GodwitError(
    'GODWIT_INVALID_ARGUMENT',
    `entry ${number} of the trace writes ${count} pages from page ${firstPage} on: not within ${memory.populatedBytes} populated bytes`,
  );
}

/**
 * Reads a recorded trace from JSON lines: `{"ms":12.5,"firstPage":4096,"count":8}`. Empty lines are skipped.
 *
 * @throws GodwitError GODWIT_INVALID_ARGUMENT, with the number of the line that is wrong
 * @example
 * const writes = [...traceFromJsonLines(readFileSync('trace.jsonl', 'utf8').split('\n'))];
 */
export function* traceFromJsonLines(lines: Iterable<string>): Generator<TraceEntry> {
  let number = 0;
  for (const line of lines) {
    number++;
    if (line.trim() === '') continue;
    yield entryOf(line, number);
  }
}

function entryOf(line: string, number: number): TraceEntry {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch (error) {
    throw new GodwitError('GODWIT_INVALID_ARGUMENT', `line ${number} of the trace is not JSON`, { cause: error });
  }
  const { ms, firstPage, count } = (value ?? {}) as Record<string, unknown>;
  if (typeof ms === 'number' && typeof firstPage === 'number' && typeof count === 'number') {
    return { ms, firstPage, count };
  }
  throw new GodwitError(
    'GODWIT_INVALID_ARGUMENT',
    `line ${number} of the trace needs the numbers "ms", "firstPage" and "count", got ${line.slice(0, 80)}`,
  );
}
