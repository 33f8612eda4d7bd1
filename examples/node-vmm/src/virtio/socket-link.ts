import { createConnection, createServer, type Server, type Socket } from 'node:net';
import { FrameCutter, type FrameLink, withLength } from './frame-link.js';

/** The longest frame that a peer may send; a card drops what is too long for it. */
const LONGEST_FRAME = 2 ** 16;
/** Bytes that wait for a peer, at most: then frames are dropped. */
const MOST_WAITING_BYTES = 2 ** 20;
/** After how long a connection that failed or ended is made again. Milliseconds. */
const AGAIN_MS = 1000;

/** A UNIX socket that a network card's frames go over. */
export interface SocketChoice {
  readonly path: string;
  /** Whether this side listens; the other one connects. Default: this one connects. */
  readonly listen?: boolean;
}

/**
 * A link over a UNIX stream socket, each frame behind its length, which needs no root: to passt, to QEMU's `-netdev stream`, or to another
 * node-vmm. A connection that ends is made again; whoever listens has one peer, and the newest counts.
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
    // What went wrong is followed by the end of the connection.
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
