import {
  type Clock,
  type Frame,
  GodwitError,
  type IncomingLink,
  type LinkConnector,
  type LinkListener,
} from '@godwit/core';
import type { Direction, Stage } from './fault.js';
import { type HostProcess, never } from './host-process.js';
import { type Parcel, Pipe, Wire } from './pipe.js';
import type { LinkPlan } from './schedule.js';
import { WireStream } from './wire-stream.js';

/** A frame observed at one stage between its writer and its reader. */
export interface Passing {
  readonly path: Path;
  readonly direction: Direction;
  readonly stage: Stage;
  readonly frame: Frame;
  /** Number of the page channel, -1 on the control stream. */
  readonly channel: number;
}

/** What happens to an observed frame: it passes, is lost, is broken (unreadable), or is replaced by another frame. */
export type Fate = 'pass' | 'lost' | 'broken' | Frame;

export type Observer = (passing: Passing) => Fate;

export type StreamKind = 'all' | 'control' | 'pages';

/** The network path between a source's process and an address, with all connections that were made over it. */
export class Path {
  readonly source: HostProcess;
  readonly address: string;
  readonly forth: Wire;
  readonly back: Wire;
  readonly streams: { readonly ends: readonly [WireStream, WireStream]; readonly channel: number }[] = [];
  /** Before this time no connection can be made. */
  closedUntil = 0;
  /** Connecting over a closed path fails at once; else it waits until the path opens. */
  refuses = false;
  readonly #clock: Clock;

  constructor(clock: Clock, source: HostProcess, address: string, { bytesPerSecond, latencyMs }: LinkPlan) {
    this.#clock = clock;
    this.source = source;
    this.address = address;
    this.forth = new Wire(clock, bytesPerSecond, latencyMs);
    this.back = new Wire(clock, bytesPerSecond, latencyMs);
  }

  wires(direction: Direction | 'both'): readonly Wire[] {
    return direction === 'both' ? [this.forth, this.back] : [this[direction]];
  }

  /** Cuts all connections that were made so far. With `delivered`, frames in flight still arrive. */
  cut(which: StreamKind, delivered: boolean): void {
    for (const { ends, channel } of this.streams) {
      if (which !== 'all' && (which === 'control') !== (channel === -1)) continue;
      for (const end of ends) end.cut(delivered);
    }
  }

  /** Removes every fault from the path. */
  heal(): void {
    this.closedUntil = 0;
    for (const wire of this.wires('both')) {
      wire.slowness = 1;
      wire.stalledUntil = Math.min(wire.stalledUntil, this.#clock.now());
    }
  }
}

/** The simulated network: processes that connect and listen, addresses, and the paths between them. */
export class Network {
  readonly #clock: Clock;
  readonly #plan: LinkPlan;
  readonly #observe: Observer;
  readonly #listening = new Map<
    string,
    { readonly process: HostProcess; readonly offer: (link: IncomingLink) => void }
  >();
  readonly #paths = new Map<string, Path>();
  readonly #ends: WireStream[] = [];
  /** Page channels that no link has given out. */
  #untaken: WireStream[] = [];

  constructor(clock: Clock, plan: LinkPlan, observe: Observer) {
    this.#clock = clock;
    this.#plan = plan;
    this.#observe = observe;
  }

  get paths(): Iterable<Path> {
    return this.#paths.values();
  }

  path(source: HostProcess, address: string): Path {
    const name = `${source.name}>${address}`;
    let path = this.#paths.get(name);
    if (path === undefined) {
      path = new Path(this.#clock, source, address, this.#plan);
      this.#paths.set(name, path);
    }
    return path;
  }

  connector(source: HostProcess, address: string): LinkConnector {
    const path = this.path(source, address);
    return {
      connect: async ({ pageChannels, checksums = false }, signal) => {
        await source.clock.sleep(2 * this.#plan.latencyMs, signal);
        if (this.#clock.now() < path.closedUntil && !path.refuses) {
          await source.clock.sleep(path.closedUntil - this.#clock.now(), signal);
        }
        const target = this.#listening.get(address);
        if (this.#clock.now() < path.closedUntil || target?.process.alive !== true) {
          throw new GodwitError('GODWIT_CONNECT_FAILED', `${address}: connection refused`);
        }
        const control = this.#streams(path, target.process, -1, checksums);
        const pages = Array.from({ length: pageChannels }, (_, channel) =>
          this.#streams(path, target.process, channel, checksums),
        );
        // A transport closes page channels that no link takes; here they are kept until a link takes them.
        this.#untaken.push(...pages.map(([, theirs]) => theirs));
        target.offer({
          control: control[1],
          peer: source.name,
          pageChannels: async () => {
            const theirs = pages.map(([, end]) => end);
            this.#untaken = this.#untaken.filter((end) => !theirs.includes(end));
            return theirs;
          },
        });
        return { control: control[0], pageChannels: pages.map(([ours]) => ours), peer: address };
      },
    };
  }

  listener(process: HostProcess, address: string): LinkListener {
    const waiting: IncomingLink[] = [];
    let wake: (() => void) | undefined;
    const offer = (link: IncomingLink) => {
      waiting.push(link);
      wake?.();
    };
    this.#listening.set(address, { process, offer });
    return {
      async accept(signal) {
        for (;;) {
          signal.throwIfAborted();
          const link = waiting.shift();
          if (link !== undefined) return process.alive ? link : never();
          await new Promise<void>((resolve, reject) => {
            const onAbort = () => reject(signal.reason);
            signal.addEventListener('abort', onAbort, { once: true });
            wake = () => {
              signal.removeEventListener('abort', onAbort);
              resolve();
            };
          });
        }
      },
      async close() {},
    };
  }

  /** Handles the death of a process: its peers get a reset, unless the death is silent, as that of a whole machine. */
  died(process: HostProcess, silent: boolean): void {
    if (silent) return;
    for (const end of this.#ends) {
      if (end.process === process) end.reset();
    }
  }

  /** Number of stream ends that a process has neither closed nor dropped. */
  openEnds(process: HostProcess): number {
    return this.#ends.filter((end) => end.process === process && end.open && !this.#untaken.includes(end)).length;
  }

  #streams(path: Path, target: HostProcess, channel: number, checksums: boolean): [WireStream, WireStream] {
    const pipe = (direction: Direction) =>
      new Pipe(path[direction], this.#plan, (parcel) =>
        this.#pass(parcel, checksums, { path, direction, channel, stage: 'arrived' }),
      );
    const forth = pipe('forth');
    const back = pipe('back');
    const end = (process: HostProcess, direction: Direction): WireStream =>
      new WireStream(process, checksums, direction === 'forth' ? [forth, back] : [back, forth], (parcel, stage) =>
        this.#pass(parcel, checksums, {
          path,
          direction: stage === 'reading' ? opposite(direction) : direction,
          channel,
          stage,
        }),
      );
    const ends: [WireStream, WireStream] = [end(path.source, 'forth'), end(target, 'back')];
    path.streams.push({ ends, channel });
    this.#ends.push(...ends);
    return ends;
  }

  /** Lets faults see a parcel, which they may change. Returns false if it is lost. */
  #pass(parcel: Parcel, checksums: boolean, where: Omit<Passing, 'frame'>): boolean {
    const fate = this.#observe({ ...where, frame: parcel.frame });
    if (fate === 'pass') return true;
    if (fate === 'lost') return false;
    // With checksums the reader only sees that a frame was changed.
    if (fate === 'broken' || checksums) {
      parcel.broken = true;
    } else {
      parcel.frame = fate;
      parcel.payload = undefined;
    }
    return true;
  }
}

function opposite(direction: Direction): Direction {
  return direction === 'forth' ? 'back' : 'forth';
}
