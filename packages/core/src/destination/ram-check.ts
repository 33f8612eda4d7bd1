import type { Clock } from '../clock.js';
import { GodwitError } from '../errors.js';
import type { FrameStream } from '../link/frame-stream.js';
import type { MemoryWindows } from '../memory/memory-windows.js';
import type { DigestsFrame, VerifiedFrame } from '../protocol/frame.js';
import { DigestComparison } from '../verify/compare-digests.js';
import { DIGEST_BYTES } from '../verify/page-digest.js';
import { checkRuns } from './run-check.js';

/** The destination's side of the comparison of RAM between `ready` and `go`: at most one, and only if both sides agreed on it. */
export class RamCheck {
  readonly #windows: MemoryWindows;
  readonly #clock: Clock;
  readonly #agreed: boolean;
  readonly #isOver: () => boolean;
  #comparison: DigestComparison | undefined;
  #finished = false;

  /** `agreed`: whether the hello offered the feature `verify`; `isOver`: whether the connection is lost, or the migration over. */
  constructor(windows: MemoryWindows, clock: Clock, agreed: boolean, isOver: () => boolean) {
    this.#windows = windows;
    this.#clock = clock;
    this.#agreed = agreed;
    this.#isOver = isOver;
  }

  /** True when all RAM was compared and is equal. */
  get passed(): boolean {
    return this.#finished && this.#comparison?.pagesDifferent === 0;
  }

  async compare(stream: FrameStream, frame: DigestsFrame, payloadBytes: number): Promise<void> {
    const comparison = this.#begin('digests');
    const pages = checkRuns(this.#windows.memory, frame.block, frame.runs, 'digests');
    if (payloadBytes !== pages * DIGEST_BYTES) {
      throw new GodwitError(
        'GODWIT_PROTOCOL',
        `a "digests" frame has ${pages} pages but ${payloadBytes} bytes of digests`,
      );
    }
    const digests = new Uint32Array(pages * 2);
    await stream.readPayload([new Uint8Array(digests.buffer)]);
    await comparison.compare(frame.block, frame.runs, digests);
  }

  /** Ends the comparison; resolves with the answer to `digestsEnd`. */
  async finish(): Promise<VerifiedFrame> {
    const comparison = this.#begin('digestsEnd');
    this.#finished = true;
    await comparison.finish();
    const { pagesCompared, pagesDifferent, differences } = comparison;
    return { type: 'verified', pagesCompared, pagesDifferent, differences };
  }

  /** Throws `GODWIT_PROTOCOL` for a `go` during a comparison, or after one that found a difference. */
  admitGo(): void {
    if (this.#comparison === undefined || this.passed) return;
    throw new GodwitError(
      'GODWIT_PROTOCOL',
      this.#finished
        ? `the source sent "go" although ${this.#comparison.pagesDifferent} pages differ`
        : 'the source sent "go" in the middle of the comparison of RAM',
    );
  }

  #begin(type: string): DigestComparison {
    if (!this.#agreed || this.#finished) {
      throw new GodwitError(
        'GODWIT_PROTOCOL',
        `the source sent "${type}" ${this.#finished ? 'after the comparison of RAM' : 'although "verify" was not agreed on'}`,
      );
    }
    this.#comparison ??= new DigestComparison(this.#windows, this.#clock, this.#isOver);
    return this.#comparison;
  }
}
