import { GodwitError } from '../errors.js';
import type { EncodingScenario } from './scenario.js';

/** Pages of a batch by how they are sent, and their bytes on the wire. */
export interface KindsOfPages {
  readonly raw: number;
  readonly zero: number;
  readonly delta: number;
  readonly compressed: number;
  readonly payloadBytes: number;
}

/** Divides pages into kinds by fixed shares: the contents of pages are not simulated. */
export class PageKinds {
  /** How fast a channel scans pages, in bytes of guest memory per second. */
  readonly scanBytesPerSecond: number;
  /** Batches of pages that were split. */
  batches = 0;
  readonly #zeroShare: number;
  readonly #deltaShare: number;
  readonly #deltaBytes: number;
  readonly #wholeBytes: number;
  readonly #compressed: boolean;
  /** Fractions of pages that were left over from the batches so far. */
  #zeroOwed = 0;
  #deltaOwed = 0;

  /** `zeroShare`: the share of all populated pages that are zero before the guest writes any. */
  constructor(pageSize: number, zeroShare: number, encoding: EncodingScenario, scanBytesPerSecond: number) {
    const { deltaShare = 0, deltaRatio = 0.25, compressedRatio = 1 } = encoding;
    for (const [name, value] of Object.entries({ zeroShare, deltaShare, deltaRatio, compressedRatio })) {
      if (value >= 0 && value <= 1) continue;
      throw new GodwitError('GODWIT_INVALID_ARGUMENT', `${name} must be from 0 to 1, got ${value}`);
    }
    this.scanBytesPerSecond = scanBytesPerSecond;
    this.#zeroShare = zeroShare;
    this.#deltaShare = deltaShare;
    this.#deltaBytes = deltaRatio * pageSize;
    this.#wholeBytes = compressedRatio * pageSize;
    this.#compressed = compressedRatio < 1;
  }

  /**
   * Pages of round 1 may be zero; pages of later rounds were written since they were sent, and may be sent as deltas unless
   * `inFull` is true.
   */
  split(round: number, pages: number, inFull = false): KindsOfPages {
    this.batches++;
    let zero = 0;
    let delta = 0;
    if (round === 1) {
      this.#zeroOwed += pages * this.#zeroShare;
      zero = Math.min(pages, Math.floor(this.#zeroOwed));
      this.#zeroOwed -= zero;
    } else if (!inFull) {
      this.#deltaOwed += pages * this.#deltaShare;
      delta = Math.min(pages, Math.floor(this.#deltaOwed));
      this.#deltaOwed -= delta;
    }
    const whole = pages - zero - delta;
    return {
      zero,
      delta,
      raw: this.#compressed ? 0 : whole,
      compressed: this.#compressed ? whole : 0,
      payloadBytes: Math.round(whole * this.#wholeBytes + delta * this.#deltaBytes),
    };
  }
}
