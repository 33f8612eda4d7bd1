import type { Frame, FrameStream, GodwitError, ReceivedFrame } from '@godwit/core';
import type { FrameMailbox } from './frame-mailbox.js';

/** The control stream's index; page channels count from 0. */
export const CONTROL = -1;

/** The destination behind the streams of a save. */
export interface SaveTarget {
  readonly answers: FrameMailbox;
  /** Resolves when the save has ended, successfully or not. */
  readonly over: Promise<void>;
  take(stream: number, frame: Frame, payload: readonly Uint8Array[]): Promise<number>;
  end(): Promise<void>;
  abort(reason: GodwitError): void;
}

/** One stream of a save, at the source's end. The effect of a frame is complete when its `write` resolves. */
export class SaveStream implements FrameStream {
  /** The number of answers instead of bytes, which is enough to show that the save goes on. */
  bytesRead = 0;
  readonly #save: SaveTarget;
  readonly #index: number;
  #bytesWritten = 0;

  constructor(save: SaveTarget, index: number) {
    this.#save = save;
    this.#index = index;
  }

  /** Bytes that went into the file for this stream's frames. */
  get bytesWritten(): number {
    return this.#bytesWritten;
  }

  async write(frame: Frame, payload: readonly Uint8Array[] = []): Promise<void> {
    // `+= await` would be wrong: writes overlap, and it would add to the sum from before the wait.
    const bytes = await this.#save.take(this.#index, frame, payload);
    this.#bytesWritten += bytes;
  }

  async read(): Promise<ReceivedFrame | null> {
    // A destination sends nothing on a page channel.
    const frame = this.#index === CONTROL ? await this.#save.answers.take() : await this.#save.over.then(() => null);
    if (frame === null) return null;
    this.bytesRead++;
    return { frame, payloadBytes: 0 };
  }

  async readPayload(): Promise<void> {}

  async skipPayload(): Promise<void> {}

  async close(): Promise<void> {
    // The end of the control stream ends the save; page channels end with it.
    if (this.#index === CONTROL) await this.#save.end();
  }

  abort(reason: GodwitError): void {
    this.#save.abort(reason);
  }

  settled(): Promise<void> {
    return this.#save.end();
  }
}
