import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';

import type { Backing, Figures, MemoryKind, Observed, PagePath, PeerCommand, PeerReply, RawSocket } from './peer.js';

/** The figures of a migration that was observed while it ran, and not timed. */
export interface ObservedMigration extends Observed {
  readonly destinationExtraBytes: number;
}

/** A forked peer, which takes one command at a time. */
class Peer {
  readonly #child: ChildProcess = fork(new URL('./peer.js', import.meta.url));

  async ask<T extends PeerReply['type']>(command: PeerCommand, answer: T): Promise<Extract<PeerReply, { type: T }>> {
    this.#child.send(command);
    return this.next(answer);
  }

  async next<T extends PeerReply['type']>(answer: T): Promise<Extract<PeerReply, { type: T }>> {
    const ended = new AbortController();
    const exit = once(this.#child, 'exit', { signal: ended.signal }).then(([code]) => {
      throw new Error(`a benchmark process ended with ${code}`);
    });
    exit.catch(() => {});
    const [message] = (await Promise.race([once(this.#child, 'message'), exit])) as [PeerReply];
    ended.abort();
    if (message.type !== answer) throw new Error(`expected "${answer}", got "${message.type}"`);
    return message as Extract<PeerReply, { type: T }>;
  }

  stop(): void {
    this.#child.disconnect();
  }
}

/** A process with a guest's memory and one that receives it, by raw loops and by migrations. */
export class Peers {
  readonly byteLength: number;
  readonly #source = new Peer();
  readonly #destination = new Peer();

  private constructor(byteLength: number) {
    this.byteLength = byteLength;
  }

  /** `backing`: of the source's memory. */
  static async start(byteLength: number, backing: Backing = 'file'): Promise<Peers> {
    const peers = new Peers(byteLength);
    await peers.#source.ask({ type: 'fill', byteLength, backing }, 'done');
    return peers;
  }

  stop(): void {
    this.#source.stop();
    this.#destination.stop();
  }

  /** Runs a raw loop; resolves with the milliseconds from the first byte to the last at the receiver. */
  async raw(memory: MemoryKind, socket: RawSocket = { over: 'tcp' }): Promise<number> {
    const { byteLength } = this;
    const { port } = await this.#destination.ask({ type: 'receive raw', byteLength, memory, socket }, 'listening');
    const received = this.#destination.next('received raw');
    await this.#source.ask({ type: 'send raw', port, socket }, 'done');
    return (await received).ms;
  }

  /** Runs a migration that is timed, and not observed. */
  async migrate(memory: MemoryKind, path: PagePath): Promise<Figures> {
    const { figures } = await this.#move(memory, path, false);
    return figures;
  }

  /** Runs a migration that is observed, and not timed. */
  async observe(memory: MemoryKind, path: PagePath): Promise<ObservedMigration> {
    const { figures, destinationExtraBytes } = await this.#move(memory, path, true);
    if (figures.observed === undefined || destinationExtraBytes === undefined)
      throw new Error('the migration was not observed');
    return { ...figures.observed, destinationExtraBytes };
  }

  async #move(memory: MemoryKind, path: PagePath, observed: boolean) {
    const { byteLength } = this;
    const { address } = await this.#destination.ask(
      { type: 'receive', byteLength, memory, path, observed },
      'receiving',
    );
    const received = this.#destination.next('received');
    const { figures } = await this.#source.ask({ type: 'migrate', address, path, observed }, 'migrated');
    return { figures, destinationExtraBytes: (await received).extraResidentBytes };
  }
}
