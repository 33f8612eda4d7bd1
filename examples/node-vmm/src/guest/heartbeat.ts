/**
 * The guest's console lines.
 *
 *     [guest] started vcpus=2 owned=3000
 *     [guest] heartbeat 000123 clock=2503116us gap=20013us stall=1523us writes=32768 mail=87 |  ## # ... #|
 *     [guest] defect kind=stale vcpu=1 gpa=0x0000000000524000 offset=0x0000000000000000 expected=0x...18 found=0x...16
 *
 * `gap` is the time since the previous heartbeat; `stall` the largest step between two of vCPU 0's clock readings since
 * then. vCPU 0 reads the clock about every 1..2 ms, so that `stall` is the downtime as the guest itself measures it, whether the pause
 * came at a heartbeat or between two. `writes` is the sum over all vCPUs, `mail` the newest mailbox message that was seen. Between the bars is the next row of
 * the picture (picture.ts).
 */
import { cellsOf, nextCells } from './picture.js';
import { DEFECT_CODES, type DefectKind } from './ports.js';

export interface StartedLine {
  readonly type: 'started';
  readonly vcpus: number;
  /** Pages that vCPU 0 owns. */
  readonly owned: number;
}

export interface HeartbeatLine {
  readonly type: 'heartbeat';
  readonly count: number;
  /** Microseconds; so are gap and stall. */
  readonly clock: number;
  readonly gap: number;
  readonly stall: number;
  readonly writes: number;
  readonly mail: number;
  /** The row of the picture. */
  readonly cells: bigint;
}

export interface DefectLine {
  readonly type: 'defect';
  readonly kind: DefectKind;
  readonly vcpu: number;
  readonly guestPhysicalAddress: number;
  readonly offset: number;
  /** Hexadecimal with 0x: a 64-bit word of memory, for which a number is not exact. */
  readonly expected: string;
  readonly found: string;
}

/** Any other line. */
export interface OtherLine {
  readonly type: 'other';
  readonly text: string;
}

export type GuestLine = StartedLine | HeartbeatLine | DefectLine | OtherLine;

const STARTED = /^\[guest\] started vcpus=(\d+) owned=(\d+)$/;
const HEARTBEAT =
  /^\[guest\] heartbeat (\d+) clock=(\d+)us gap=(\d+)us stall=(\d+)us writes=(\d+) mail=(\d+) \|([ #]{64})\|$/;
const DEFECT =
  /^\[guest\] defect kind=([a-z-]+) vcpu=(\d+) gpa=0x([0-9a-f]+) offset=0x([0-9a-f]+) expected=(0x[0-9a-f]+) found=(0x[0-9a-f]+)$/;

/** Parses one line, without its newline. */
export function parseGuestLine(text: string): GuestLine {
  const beat = HEARTBEAT.exec(text);
  if (beat !== null) {
    const [count = 0, clock = 0, gap = 0, stall = 0, writes = 0, mail = 0] = beat.slice(1, 7).map(Number);
    return { type: 'heartbeat', count, clock, gap, stall, writes, mail, cells: cellsOf(beat[7] ?? '') };
  }
  const defect = DEFECT.exec(text);
  if (defect !== null) {
    const [, kind = '', vcpu = '', address = '', offset = '', expected = '', found = ''] = defect;
    if (Object.hasOwn(DEFECT_CODES, kind)) {
      return {
        type: 'defect',
        kind: kind as DefectKind,
        vcpu: Number(vcpu),
        guestPhysicalAddress: Number.parseInt(address, 16),
        offset: Number.parseInt(offset, 16),
        expected,
        found,
      };
    }
  }
  const started = STARTED.exec(text);
  if (started !== null) return { type: 'started', vcpus: Number(started[1]), owned: Number(started[2]) };
  return { type: 'other', text };
}

/**
 * Splits a console's bytes into lines. A guest that prints byte by byte can be paused within a line, whose rest then comes from the
 * destination's console: pass `pending` to the new parser as `carried`.
 */
export class GuestLineParser {
  #pending: string;

  constructor(carried = '') {
    this.#pending = carried;
  }

  /** Text of the unfinished line. */
  get pending(): string {
    return this.#pending;
  }

  /** Adds text, which is ASCII; returns the lines that are complete now. */
  push(chunk: Uint8Array | string): GuestLine[] {
    let text = this.#pending;
    if (typeof chunk === 'string') text += chunk;
    else for (const byte of chunk) text += String.fromCharCode(byte);
    const lines = text.split('\n');
    this.#pending = lines.pop() ?? '';
    return lines.map((line) => parseGuestLine(line.endsWith('\r') ? line.slice(0, -1) : line));
  }
}

/**
 * Checks heartbeats in the order in which they were printed, over all consoles of the guest. A repeated count means that an old guest
 * state ran again (or two at once), a skipped count that output was lost.
 */
export class HeartbeatMonitor {
  #last: HeartbeatLine | undefined;
  #longestGap = 0;
  #longestStall = 0;

  get last(): HeartbeatLine | undefined {
    return this.#last;
  }

  /** Microseconds. */
  get longestGap(): number {
    return this.#longestGap;
  }

  /** Microseconds. */
  get longestStall(): number {
    return this.#longestStall;
  }

  /** Compares a heartbeat with the previous one; returns what is wrong, or undefined. */
  observe(beat: HeartbeatLine): string | undefined {
    const last = this.#last;
    this.#last = beat;
    this.#longestGap = Math.max(this.#longestGap, beat.gap);
    this.#longestStall = Math.max(this.#longestStall, beat.stall);
    if (last === undefined) return undefined;
    if (beat.count !== last.count + 1) return `heartbeat ${beat.count} after ${last.count}`;
    if (beat.clock < last.clock) return `heartbeat ${beat.count}: clock ${beat.clock} after ${last.clock}`;
    if (beat.gap !== beat.clock - last.clock) {
      return `heartbeat ${beat.count}: gap ${beat.gap}, but the clocks differ by ${beat.clock - last.clock}`;
    }
    if (beat.writes < last.writes) return `heartbeat ${beat.count}: ${beat.writes} writes after ${last.writes}`;
    if (beat.mail < last.mail) return `heartbeat ${beat.count}: message ${beat.mail} after ${last.mail}`;
    if (beat.cells !== nextCells(last.cells)) {
      return `heartbeat ${beat.count}: the row ${beat.cells.toString(16)} of the picture does not follow ${last.cells.toString(16)}`;
    }
    return undefined;
  }
}
