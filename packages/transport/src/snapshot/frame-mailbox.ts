import { type Frame, type FrameName, GodwitError } from '@godwit/core';

type FrameOf<T extends FrameName> = Extract<Frame, { type: T }>;

/** Frames that wait for a reader in the same process; one reader at a time. */
export class FrameMailbox {
  readonly #frames: Frame[] = [];
  #over: { readonly failure: GodwitError | undefined } | undefined;
  #wake: (() => void) | undefined;

  put(frame: Frame): void {
    this.#frames.push(frame);
    this.#notify();
  }

  /** The next frame, or `null` once `end` was called and none is left. Rejects once `fail` was called. */
  async take(): Promise<Frame | null> {
    for (;;) {
      if (this.#over?.failure !== undefined) throw this.#over.failure;
      const frame = this.#frames.shift();
      if (frame !== undefined) return frame;
      if (this.#over !== undefined) return null;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  /** The next frame, which must be of this type. */
  async expect<T extends FrameName>(type: T): Promise<FrameOf<T>> {
    const frame = await this.take();
    if (frame?.type === type) return frame as FrameOf<T>;
    throw new GodwitError(
      'GODWIT_PROTOCOL',
      `expected "${type}", got ${frame === null ? 'the end' : `"${frame.type}"`}`,
    );
  }

  end(): void {
    this.#over ??= { failure: undefined };
    this.#notify();
  }

  fail(failure: GodwitError): void {
    this.#over ??= { failure };
    this.#notify();
  }

  #notify(): void {
    const wake = this.#wake;
    this.#wake = undefined;
    wake?.();
  }
}
