import { GodwitError } from '../../errors.js';
import type { DirtyBitmap } from '../../memory/dirty-bitmap.js';
import type { Random } from '../random.js';
import { partsOfCurve } from './curve.js';
import { scatter } from './scatter.js';
import { cycleBegin, TraceWriter } from './trace.js';
import type { Workload, WriteRate } from './workload.js';

/**
 * Writes a guest's memory in a simulation. Each harvest asks it for the pages that were written since the one before.
 */
export interface Writer {
  /** Marks the pages that were written from `fromMs` until `toMs` of the guest's own clock. The times ascend. */
  write(fromMs: number, toMs: number, marks: DirtyBitmap): void;
}

/** The memory that a workload writes, and the page sizes of the simulation and the guest. */
export interface WrittenMemory {
  /** Bytes that have memory behind them, from the start of RAM on. */
  readonly populatedBytes: number;
  /** Bytes of a page of the simulation: a multiple of the guest's. */
  readonly pageSize: number;
  /** Bytes of a page of the guest. */
  readonly guestPageSize: number;
}

/** @throws GodwitError GODWIT_INVALID_ARGUMENT for a workload that does not fit the memory, with the reason */
export function makeWriter(workload: Workload, memory: WrittenMemory, random: Random): Writer {
  switch (workload.kind) {
    case 'idle':
      return IDLE;
    case 'uniform': {
      const region = regionOf(workload, memory);
      return new RandomWriter(region.first, region.pages, pagesPerMs(workload.rate, memory), random);
    }
    case 'hot':
      return hotWriter(workload, memory, random);
    case 'sweep':
      return new SweepWriter(regionOf(workload, memory), pagesPerMs(workload.rate, memory));
    case 'curve':
      return curveWriter(workload, memory, random);
    case 'phases':
      return new PhasesWriter(
        workload.phases.map(({ lastMs, workload: phase }) => ({
          lastMs: positive('lastMs of a phase', lastMs),
          writer: makeWriter(phase, memory, random),
        })),
        workload.repeat ?? false,
      );
    case 'bursts': {
      const { everyMs, lastMs, burst, between = { kind: 'idle' } } = workload;
      if (!(positive('lastMs of bursts', lastMs) < positive('everyMs of bursts', everyMs))) {
        throw invalid(`bursts of ${lastMs} ms do not fit into every ${everyMs} ms`);
      }
      const phases = [
        { lastMs: everyMs - lastMs, writer: makeWriter(between, memory, random) },
        { lastMs, writer: makeWriter(burst, memory, random) },
      ];
      return new PhasesWriter(phases, true);
    }
    case 'trace':
      return new TraceWriter(workload, memory);
    case 'together': {
      const writers = workload.workloads.map((one) => makeWriter(one, memory, random));
      return { write: (from, to, marks) => writers.forEach((writer) => void writer.write(from, to, marks)) };
    }
    default:
      throw invalid(`there is no workload of the kind "${String((workload as { kind: unknown }).kind)}"`);
  }
}

const IDLE: Writer = { write() {} };

/** Random writes over one range of pages. */
class RandomWriter implements Writer {
  readonly #first: number;
  readonly #pages: number;
  readonly #perMs: number;
  readonly #random: Random;

  constructor(first: number, pages: number, perMs: number, random: Random) {
    this.#first = first;
    this.#pages = pages;
    this.#perMs = perMs;
    this.#random = random;
  }

  write(from: number, to: number, marks: DirtyBitmap): void {
    // After n random writes to N pages, the probability that a given page was written is 1 - exp(-n / N).
    const share = -Math.expm1((-this.#perMs * (to - from)) / this.#pages);
    scatter(marks, this.#first, this.#pages, share, this.#random);
  }
}

/** Writes each page after the one before it. */
class SweepWriter implements Writer {
  readonly #region: Region;
  readonly #perMs: number;

  constructor(region: Region, perMs: number) {
    this.#region = region;
    this.#perMs = perMs;
  }

  write(from: number, to: number, marks: DirtyBitmap): void {
    const { first, pages } = this.#region;
    const begin = Math.floor(from * this.#perMs);
    const end = Math.ceil(to * this.#perMs);
    if (to <= from || this.#perMs === 0) return;
    if (end - begin >= pages) {
      marks.setRange(first, pages);
      return;
    }
    const at = begin % pages;
    const before = Math.min(end - begin, pages - at);
    marks.setRange(first + at, before);
    marks.setRange(first, end - begin - before);
  }
}

interface Phase {
  readonly lastMs: number;
  readonly writer: Writer;
}

/** One writer after the other, all by the same clock. */
class PhasesWriter implements Writer {
  readonly #phases: readonly Phase[];
  readonly #repeat: boolean;
  readonly #periodMs: number;

  constructor(phases: readonly Phase[], repeat: boolean) {
    if (phases.length === 0) throw invalid('a workload of phases needs at least one phase');
    this.#phases = phases;
    this.#repeat = repeat;
    this.#periodMs = phases.reduce((sum, { lastMs }) => sum + lastMs, 0);
  }

  write(from: number, to: number, marks: DirtyBitmap): void {
    for (let at = from; at < to; ) {
      const { writer, endMs } = this.#phaseAt(at);
      const stop = Math.min(endMs, to);
      writer.write(at, stop, marks);
      at = stop;
    }
  }

  #phaseAt(ms: number): { readonly writer: Writer; readonly endMs: number } {
    const last = this.#phases.at(-1) as Phase;
    let begin = this.#repeat ? cycleBegin(ms, this.#periodMs) : 0;
    const cycleEnd = this.#repeat ? begin + this.#periodMs : Number.POSITIVE_INFINITY;
    for (const phase of this.#phases) {
      begin += phase.lastMs;
      if (ms < begin && phase !== last) return { writer: phase.writer, endMs: begin };
    }
    return { writer: last.writer, endMs: cycleEnd };
  }
}

interface Region {
  readonly first: number;
  readonly pages: number;
}

function hotWriter(workload: Extract<Workload, { kind: 'hot' }>, memory: WrittenMemory, random: Random): Writer {
  const { first, pages } = regionOf(workload, memory);
  const { hotShare = 0.9, hotBytes } = workload;
  const hot = hotBytes === undefined ? Math.ceil(pages / 10) : toPages('hotBytes', hotBytes, memory);
  if (!(hotShare >= 0 && hotShare <= 1)) throw invalid(`hotShare must be from 0 to 1, got ${hotShare}`);
  if (hot >= pages) throw invalid(`hotBytes must be less than the working set, got ${hot * memory.pageSize} bytes`);
  const perMs = pagesPerMs(workload.rate, memory);
  const writers = [
    new RandomWriter(first, hot, perMs * hotShare, random),
    new RandomWriter(first + hot, pages - hot, perMs * (1 - hotShare), random),
  ];
  return { write: (from, to, marks) => writers.forEach((writer) => void writer.write(from, to, marks)) };
}

/** The parts lie one after the other in memory; the last ones share the room that is left. */
function curveWriter(workload: Extract<Workload, { kind: 'curve' }>, memory: WrittenMemory, random: Random): Writer {
  const { first, pages } = regionOf({ offset: workload.offset ?? 0 }, memory);
  let at = first;
  const writers = partsOfCurve(workload.points).flatMap(({ bytes, everyMs }) => {
    const wanted = bytes / memory.pageSize;
    const room = Math.min(Math.max(1, Math.round(wanted)), first + pages - at);
    if (room === 0) return [];
    const writer = new RandomWriter(at, room, wanted / everyMs, random);
    at += room;
    return [writer];
  });
  return { write: (from, to, marks) => writers.forEach((writer) => void writer.write(from, to, marks)) };
}

function regionOf({ bytes, offset = 0 }: { bytes?: number; offset?: number }, memory: WrittenMemory): Region {
  const { populatedBytes, pageSize } = memory;
  if (!(offset >= 0 && offset < populatedBytes)) {
    throw invalid(`a working set cannot begin at byte ${offset} of ${populatedBytes} populated bytes`);
  }
  const length = bytes ?? populatedBytes - offset;
  if (!(length > 0 && offset + length <= populatedBytes)) {
    throw invalid(
      `a working set of ${length} bytes from byte ${offset} on does not fit into ${populatedBytes} populated bytes`,
    );
  }
  const first = Math.floor(offset / pageSize);
  const end = Math.min(Math.ceil((offset + length) / pageSize), Math.floor(populatedBytes / pageSize));
  return { first, pages: Math.max(1, end - first) };
}

function toPages(name: string, bytes: number, { pageSize }: WrittenMemory): number {
  return Math.max(1, Math.round(positive(name, bytes) / pageSize));
}

/** Pages of the simulation that are written in a millisecond. */
function pagesPerMs(rate: WriteRate, { pageSize, guestPageSize }: WrittenMemory): number {
  const bytes = typeof rate === 'number' ? rate : rate.pagesPerSecond * guestPageSize;
  if (!(Number.isFinite(bytes) && bytes >= 0))
    throw invalid(`a rate of writes must be a number from 0 on, got ${bytes}`);
  return bytes / pageSize / 1000;
}

function positive(name: string, value: number): number {
  if (Number.isFinite(value) && value > 0) return value;
  throw invalid(`${name} must be a number above 0, got ${value}`);
}

function invalid(message: string): GodwitError {
  return new GodwitError('GODWIT_INVALID_ARGUMENT', message);
}
