import { createConnection, createServer, type Server, type Socket } from 'node:net';
import { FrameCutter, type FrameLink, withLength } from './frame-link.js';

/** The longest frame that a peer may send; the card drops a frame that is too long for its guest. */
const LONGEST_FRAME = 2 ** 16;
/** The most bytes that wait for a peer; further frames are dropped. */
const MOST_WAITING_BYTES = 2 ** 20;
/** The time before a failed or ended connection is made again. Milliseconds. */
const AGAIN_MS = 1000;

/** A UNIX socket that carries the frames of a network card. */
export interface SocketChoice {
  readonly path: string;
  /** Whether this side listens; the other one connects. Default: this one connects. */
  readonly listen?: boolean;
}

/**
 * A link over a UNIX stream socket, each frame behind its length, which needs no root: to passt, to QEMU's `-netdev stream`, or to another
 * node-vmm. A connection that ends is made again; a listening side has one peer, and a newer connection replaces the older one.
 */
export class SocketLink implements FrameLink {
  readonly #choice: SocketChoice;
  #arrives: (frame: Uint8Array) => void = () => {};
  #server: Server | undefined;
  #peer: Socket | undefined;
  #again: NodeJS.Timeout | undefined;
  #open = false;

  constructor(choice: SocketChoice) {
    this.#choice = choice;
  }

  open(arrives: (frame: Uint8Array) => void): void {
    this.#arrives = arrives;
    if (this.#open) return;
    this.#open = true;
    this.#begin();
  }

  send(frame: Uint8Array): void {
    const peer = this.#peer;
    if (peer === undefined || peer.writableLength > MOST_WAITING_BYTES) return;
    peer.write(withLength(frame));
  }

  async close(): Promise<void> {
    this.#open = false;
    clearTimeout(this.#again);
    const server = this.#server;
    this.#server = undefined;
    const peer = this.#peer;
    this.#peer = undefined;
    await Promise.all([
      peer && new Promise<void>((resolve) => peer.once('close', () => resolve()).destroy()),
      server?.listening === true && new Promise<void>((resolve) => server.close(() => resolve())),
    ]);
  }

  #begin(): void {
    if (this.#choice.listen !== true) {
      this.#use(createConnection(this.#choice.path));
      return;
    }
    const server = createServer((socket) => {
      this.#peer?.destroy();
      this.#use(socket);
    });
    this.#server = server;
    // The path may be in use until the other side of a move has closed it.
    server.once('error', () => this.#tryAgain());
    server.listen(this.#choice.path);
  }

  #use(peer: Socket): void {
    const cutter = new FrameCutter(LONGEST_FRAME, (frame) => {
      if (this.#peer === peer) this.#arrives(frame);
    });
    this.#peer = peer;
    // The end of the connection follows, and is handled there.
    peer.on('error', () => {});
    peer.on('data', (bytes) => {
      if (!cutter.take(bytes)) peer.destroy();
    });
    peer.once('close', () => {
      if (this.#peer !== peer) return;
      this.#peer = undefined;
      if (this.#choice.listen !== true) this.#tryAgain();
    });
  }

  #tryAgain(): void {
    if (!this.#open) return;
    this.#again = setTimeout(() => this.#begin(), AGAIN_MS);
  }
}
