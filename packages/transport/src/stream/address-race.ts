import type net from 'node:net';

/** How long an address has before the next one is tried beside it (RFC 8305, section 5). Milliseconds. */
const HEAD_START_MS = 250;

/** A connection that is being made; the `begin` of a race may add fields. */
export interface Attempt {
  readonly socket: net.Socket;
}

/**
 * Connects to the first of several addresses that answers. Each address has a head start of 250 ms on the next one, and none is
 * given up while it may still answer. (Node's own `autoSelectFamily` gives an address 250 ms in all, in which a listener behind
 * a long path, or a busy one, may not answer.)
 */
export class AddressRace<T extends Attempt> {
  readonly #begin: (address: string) => T;
  readonly #trying = new Map<net.Socket, string>();
  readonly #errors: Error[] = [];
  #waiting: string[] = [];
  #timer: NodeJS.Timeout | undefined;

  constructor(begin: (address: string) => T) {
    this.#begin = begin;
  }

  /** Rejects with the error of each address. Once it has settled, every other socket is destroyed. */
  run(addresses: readonly string[]): Promise<T> {
    this.#waiting = [...addresses];
    return new Promise((resolve, reject) => {
      const tryNext = (): void => {
        clearTimeout(this.#timer);
        const address = this.#waiting.shift();
        if (address === undefined) {
          if (this.#trying.size === 0) reject(asOne(this.#errors));
          return;
        }
        const attempt = this.#begin(address);
        const { socket } = attempt;
        this.#trying.set(socket, address);
        socket.once('connect', () => {
          if (!this.#trying.delete(socket)) return;
          this.drop();
          resolve(attempt);
        });
        socket.on('error', (error) => {
          if (!this.#trying.delete(socket)) return;
          this.#errors.push(error);
          tryNext();
        });
        if (this.#waiting.length > 0) this.#timer = setTimeout(tryNext, HEAD_START_MS);
      };
      tryNext();
    });
  }

  /** Ends every attempt that is under way, without settling `run`. */
  drop(): void {
    clearTimeout(this.#timer);
    this.#waiting = [];
    const sockets = [...this.#trying.keys()];
    this.#trying.clear();
    for (const socket of sockets) socket.destroy();
  }

  /** The error when the time is up: it has each address with its state so far. */
  timedOut(timeoutMs: number): Error {
    const within = `within connectTimeoutMs = ${timeoutMs}`;
    const late = [
      ...[...this.#trying.values()].map((address) => `no answer from ${address} ${within}`),
      ...this.#waiting.map((address) => `${address} had no turn ${within}`),
    ].map((message) => Object.assign(new Error(message), { code: 'ETIMEDOUT' }));
    return asOne([...this.#errors, ...late]);
  }
}

function asOne(errors: readonly Error[]): Error {
  const [first] = errors;
  return errors.length === 1 && first !== undefined
    ? first
    : new AggregateError(errors, `${errors.length} attempts failed`);
}
