import type { Clock } from '../clock.js';
import { GodwitError } from '../errors.js';
import type { Random } from './random.js';
import type { LinkChange, LinkScenario } from './scenario.js';

interface LinkState {
  readonly atMs: number;
  readonly bytesPerMs: number;
  readonly latencyMs: number;
  readonly jitterMs: number;
}

/** The network between two hosts: its rate and latency at any time, and its cuts. */
export class SimulatedNetwork {
  readonly clock: Clock;
  readonly channelBytesPerSecond: number;
  readonly #random: Random;
  /** The states of the link, each with the milliseconds from which on it holds; the first begins at 0. */
  readonly #states: readonly LinkState[];
  readonly #cuts: LinkScenario['cuts'];

  /** @throws GodwitError GODWIT_INVALID_ARGUMENT for an impossible link */
  constructor(clock: Clock, link: LinkScenario, random: Random) {
    this.clock = clock;
    this.#random = random;
    this.channelBytesPerSecond = link.channelBytesPerSecond ?? Number.POSITIVE_INFINITY;
    if (!(this.channelBytesPerSecond > 0)) throw invalid('channelBytesPerSecond', link.channelBytesPerSecond);
    let { bytesPerSecond, latencyMs = 0.1, jitterMs = 0 } = link;
    let before = 0;
    const changes: readonly LinkChange[] = [{ atMs: 0 }, ...(link.changes ?? [])];
    this.#states = changes.map((change) => {
      bytesPerSecond = change.bytesPerSecond ?? bytesPerSecond;
      latencyMs = change.latencyMs ?? latencyMs;
      jitterMs = change.jitterMs ?? jitterMs;
      if (!(bytesPerSecond > 0 && Number.isFinite(bytesPerSecond))) throw invalid('bytesPerSecond', bytesPerSecond);
      if (!(latencyMs >= 0 && Number.isFinite(latencyMs))) throw invalid('latencyMs', latencyMs);
      if (!(jitterMs >= 0 && Number.isFinite(jitterMs))) throw invalid('jitterMs', jitterMs);
      if (!(change.atMs >= before)) throw invalid('atMs (ascending)', change.atMs);
      before = change.atMs;
      return { atMs: change.atMs, bytesPerMs: bytesPerSecond / 1000, latencyMs, jitterMs };
    });
    this.#cuts = link.cuts ?? [];
    let end = 0;
    for (const { atMs, lastMs } of this.#cuts) {
      if (!(atMs >= end && lastMs >= 0 && Number.isFinite(lastMs))) throw invalid('cuts (ascending, apart)', atMs);
      end = atMs + lastMs;
    }
  }

  /** Bytes per second now. */
  get bytesPerSecond(): number {
    return this.#stateAt(this.clock.now()).bytesPerMs * 1000;
  }

  /** The time at which the last of `bytes` bytes has left, if the first leaves at `fromMs`. */
  sentAt(fromMs: number, bytes: number): number {
    let at = fromMs;
    let left = bytes;
    for (const [i, { bytesPerMs }] of this.#states.entries()) {
      const end = this.#states[i + 1]?.atMs ?? Number.POSITIVE_INFINITY;
      if (end <= at) continue;
      const takes = left / bytesPerMs;
      if (at + takes <= end) return at + takes;
      left -= (end - at) * bytesPerMs;
      at = end;
    }
    return at;
  }

  /** How long a frame that leaves now takes to the other end, in milliseconds. */
  travelMs(): number {
    const { latencyMs, jitterMs } = this.#stateAt(this.clock.now());
    return latencyMs + (jitterMs > 0 ? jitterMs * this.#random.fraction() : 0);
  }

  /** Whether the link is cut now. */
  get isCut(): boolean {
    const now = this.clock.now();
    return this.#cuts?.some(({ atMs, lastMs }) => now >= atMs && now < atMs + lastMs) ?? false;
  }

  /** Calls `cut` at the time of each cut, until `signal` aborts. */
  async watchCuts(cut: () => void, signal: AbortSignal): Promise<void> {
    for (const { atMs } of this.#cuts ?? []) {
      await this.clock.sleep(atMs - this.clock.now(), signal);
      cut();
    }
  }

  #stateAt(ms: number): LinkState {
    let found = this.#states[0] as LinkState;
    for (const state of this.#states) if (state.atMs <= ms) found = state;
    return found;
  }
}

/**
 * One direction of the network. Pages of all channels leave one after the other; frames of the control stream are small compared with
 * them and leave at once, as on a network that shares its rate fairly among streams, and pages leave later by the time of these frames.
 */
export class SimulatedWire {
  readonly network: SimulatedNetwork;
  #pagesUntil = 0;
  #controlUntil = 0;

  constructor(network: SimulatedNetwork) {
    this.network = network;
  }

  /** The time at which the last byte of a frame of the control stream has left. */
  control(bytes: number): number {
    const { network } = this;
    const start = Math.max(network.clock.now(), this.#controlUntil);
    this.#controlUntil = network.sentAt(start, bytes);
    if (this.#pagesUntil > start) this.#pagesUntil += this.#controlUntil - start;
    return this.#controlUntil;
  }

  /** Handles a cut of the link: bytes that waited to be sent take no more time. */
  cut(): void {
    this.#pagesUntil = 0;
    this.#controlUntil = 0;
  }

  /** The time at which the last byte of these pages has left. */
  pages(bytes: number): number {
    const { network } = this;
    this.#pagesUntil = network.sentAt(Math.max(network.clock.now(), this.#pagesUntil), bytes);
    return this.#pagesUntil;
  }
}

function invalid(name: string, value: unknown): GodwitError {
  return new GodwitError('GODWIT_INVALID_ARGUMENT', `the link's ${name} cannot be ${String(value)}`);
}
