/** The connection of a network card: it sends the guest's frames, and delivers those of others. */
export interface FrameLink {
  /** Connects, or begins to connect, until `close`. @param arrives called for each frame that arrives */
  open(arrives: (frame: Uint8Array) => void): void;
  /** Sends a frame; drops it when no peer is connected, or the peer reads too slowly. */
  send(frame: Uint8Array): void;
  /** Checks that `open` would succeed now, for a link that only one VMM can have. @throws GodwitError */
  requireFree?(): void;
  /** Disconnects. Resolves when no further frame arrives. Idempotent. */
  close(): Promise<void>;
}

const LENGTH_BYTES = 4;

/** Puts a frame's length before it: 32 bits, the most significant byte first, as QEMU's `-netdev stream` and passt do. */
export function withLength(frame: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(LENGTH_BYTES + frame.byteLength);
  new DataView(bytes.buffer).setUint32(0, frame.byteLength);
  bytes.set(frame, LENGTH_BYTES);
  return bytes;
}

/** Cuts a stream of bytes into frames, each behind its length. */
export class FrameCutter {
  readonly #longest: number;
  readonly #arrives: (frame: Uint8Array) => void;
  #rest: Uint8Array = new Uint8Array(0);

  /** @param longest frame, in bytes */
  constructor(longest: number, arrives: (frame: Uint8Array) => void) {
    this.#longest = longest;
    this.#arrives = arrives;
  }

  /** Takes the next bytes of the stream; returns false for a frame that is too long: the stream must be closed then. */
  take(bytes: Uint8Array): boolean {
    let rest = this.#rest.byteLength === 0 ? bytes : Buffer.concat([this.#rest, bytes]);
    while (rest.byteLength >= LENGTH_BYTES) {
      const length = new DataView(rest.buffer, rest.byteOffset).getUint32(0);
      if (length > this.#longest) return false;
      if (rest.byteLength < LENGTH_BYTES + length) break;
      this.#arrives(Uint8Array.from(rest.subarray(LENGTH_BYTES, LENGTH_BYTES + length)));
      rest = rest.subarray(LENGTH_BYTES + length);
    }
    this.#rest = rest;
    return true;
  }
}
