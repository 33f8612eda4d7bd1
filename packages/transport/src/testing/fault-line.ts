import type { Fault } from './fault-plan.js';
import { FrameFinder } from './frame-finder.js';

/** What a fault can do to its stream. */
export interface FaultActions {
  emit(bytes: Uint8Array): Promise<void>;
  /** Ends this direction. */
  end(): Promise<void>;
  /** Drops the stream; rejects. */
  cut(fault: Fault): Promise<never>;
  /** Settles only when the stream is dropped. */
  stall(): Promise<void>;
  sleep(milliseconds: number): Promise<void>;
  struck(fault: Fault, byte: number): void;
}

interface Pending {
  readonly fault: Fault;
  /** The byte at which the fault strikes; unknown until its frame has started. */
  byte: number | undefined;
}

interface Running {
  readonly fault: Fault;
  left: number;
  readonly seen: Uint8Array[];
}

/** One direction of a stream with faults: bytes go in, and come out as the faults have changed them. */
export class FaultLine {
  readonly #actions: FaultActions;
  readonly #random: () => number;
  readonly #pending: Pending[];
  readonly #frames = new FrameFinder();
  #frame = 0;
  #position = 0;
  #running: Running | undefined;
  #ended = false;

  constructor(faults: readonly Fault[], random: () => number, actions: FaultActions) {
    this.#actions = actions;
    this.#random = random;
    this.#pending = faults.map((fault) => ({ fault, byte: positionOf(fault, random) }));
  }

  /** Takes bytes in order; only one call at a time. */
  async feed(bytes: Uint8Array): Promise<void> {
    this.#locate(bytes);
    for (let at = 0; at < bytes.length && !this.#ended; ) {
      const due = this.#due();
      if (due !== undefined) {
        await this.#strike(due);
        continue;
      }
      const running = this.#running;
      const next = this.#nextAfter(this.#position);
      const most = Math.min(bytes.length - at, next - this.#position, running?.left ?? Number.POSITIVE_INFINITY);
      const part = bytes.slice(at, at + most);
      at += most;
      this.#position += most;
      if (running === undefined) await this.#actions.emit(part);
      else await this.#pass(running, part);
    }
  }

  #locate(bytes: Uint8Array): void {
    for (const start of this.#frames.feed(bytes)) {
      for (const pending of this.#pending) {
        const { at } = pending.fault;
        if ('frame' in at && at.frame === this.#frame) pending.byte = start + (at.offset ?? 0);
      }
      this.#frame++;
    }
  }

  #due(): Fault | undefined {
    const index = this.#pending.findIndex(({ byte }) => byte === this.#position);
    return index === -1 ? undefined : this.#pending.splice(index, 1)[0]?.fault;
  }

  #nextAfter(position: number): number {
    let next = Number.POSITIVE_INFINITY;
    for (const { byte } of this.#pending) if (byte !== undefined && byte > position && byte < next) next = byte;
    return next;
  }

  async #strike(fault: Fault): Promise<void> {
    this.#actions.struck(fault, this.#position);
    switch (fault.kind) {
      case 'cut':
        return this.#actions.cut(fault);
      case 'stall':
        return this.#actions.stall();
      case 'delay':
        return this.#actions.sleep(fault.milliseconds);
      case 'half-close':
        this.#ended = true;
        return this.#actions.end();
      default:
        this.#running = {
          fault,
          left: fault.bytes ?? (fault.kind === 'trickle' ? Number.POSITIVE_INFINITY : 1),
          seen: [],
        };
        return undefined;
    }
  }

  async #pass(running: Running, part: Uint8Array): Promise<void> {
    running.left -= part.length;
    if (running.left <= 0) this.#running = undefined;
    switch (running.fault.kind) {
      case 'trickle':
        for (let i = 0; i < part.length; i++) await this.#actions.emit(part.subarray(i, i + 1));
        return;
      case 'corrupt':
        await this.#actions.emit(part.map((byte) => byte ^ (1 + Math.floor(this.#random() * 255))));
        return;
      case 'duplicate':
        running.seen.push(part);
        await this.#actions.emit(part);
        if (running.left <= 0) for (const again of running.seen) await this.#actions.emit(again);
        return;
      default:
    }
  }
}

function positionOf({ at }: Fault, random: () => number): number | undefined {
  if ('byte' in at) return at.byte;
  return 'below' in at ? Math.floor(random() * at.below) : undefined;
}
