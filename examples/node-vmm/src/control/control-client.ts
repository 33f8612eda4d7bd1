import { GodwitError, type MigrationEvent } from '@godwit/core';
import { type ByteStream, unix } from '@godwit/transport';
import { ControlError, type ErrorAnswer } from './control-error.js';
import type { ControlCommand, ControlCommands } from './control-protocol.js';
import { linesOf } from './line-reader.js';

/** The longest line of a VMM, in bytes: a round's record is about two thousand. */
const LONGEST_LINE = 2 ** 20;

interface Pending {
  readonly resolve: (reply: unknown) => void;
  readonly reject: (error: ControlError) => void;
  readonly onEvent: (event: MigrationEvent) => void;
}

interface Answer {
  readonly id?: unknown;
  readonly reply?: unknown;
  readonly event?: MigrationEvent;
  readonly error?: ErrorAnswer;
}

/**
 * The client's end of a VMM's control socket.
 *
 * @example
 * const vmm = await ControlClient.connect('/run/user/1000/godwit/vmm1.sock');
 * const { guest } = await vmm.ask('status', {});
 * vmm.close();
 */
export class ControlClient {
  readonly path: string;
  readonly #stream: ByteStream;
  readonly #pending = new Map<number, Pending>();
  #lastId = 0;
  #gone: ControlError | undefined;

  private constructor(path: string, stream: ByteStream) {
    this.path = path;
    this.#stream = stream;
    void this.#read();
  }

  /** @throws ControlError when no VMM answers at the path */
  static async connect(path: string): Promise<ControlClient> {
    try {
      return new ControlClient(path, await unix({ path }).connect());
    } catch (error) {
      const { code, message } = GodwitError.wrap(error, 'GODWIT_CONNECT_FAILED', 'the control socket cannot be used');
      throw new ControlError(
        { code, message: `no VMM answers at ${path}: ${message}`, retry: false },
        { answered: false },
      );
    }
  }

  /**
   * Sends a command; resolves with its reply.
   *
   * @param onEvent gets the events of the migration, where the request has `events: true`
   * @throws ControlError the VMM's error, or an error when the VMM is gone
   */
  ask<Name extends ControlCommand>(
    command: Name,
    request: ControlCommands[Name]['request'],
    onEvent: (event: MigrationEvent) => void = () => {},
  ): Promise<ControlCommands[Name]['reply']> {
    const id = ++this.#lastId;
    return new Promise((resolve, reject) => {
      if (this.#gone !== undefined) {
        reject(this.#gone);
        return;
      }
      this.#pending.set(id, { resolve: (reply) => resolve(reply as ControlCommands[Name]['reply']), reject, onEvent });
      const line = Buffer.from(`${JSON.stringify({ id, command, ...request })}\n`);
      this.#stream.write([line]).catch(() => {});
    });
  }

  /** Closes the connection; requests without a reply fail. */
  close(): void {
    this.#lost('hung up');
    this.#stream.abort(new GodwitError('GODWIT_CANCELLED', 'the client has hung up'));
  }

  async #read(): Promise<void> {
    try {
      for await (const line of linesOf(this.#stream, LONGEST_LINE)) this.#take(JSON.parse(line) as Answer);
      this.#lost('the VMM has ended, or hung up');
    } catch (error) {
      this.#lost(error instanceof Error ? error.message : String(error));
    }
    this.#stream.abort(new GodwitError('GODWIT_LINK_LOST', 'the VMM is gone'));
  }

  #take({ id, reply, event, error }: Answer): void {
    const pending = this.#pending.get(Number(id));
    if (event !== undefined) {
      pending?.onEvent(event);
      return;
    }
    // An error without a request is the reason why the VMM closes the connection.
    if (pending === undefined) {
      if (error !== undefined) this.#lost(error.message);
      return;
    }
    this.#pending.delete(Number(id));
    if (error === undefined) pending.resolve(reply);
    else pending.reject(new ControlError(error, { answered: true }));
  }

  #lost(why: string): void {
    this.#gone ??= new ControlError(
      { code: 'GODWIT_LINK_LOST', message: `no answer from the VMM at ${this.path}: ${why}`, retry: false },
      { answered: false },
    );
    for (const [id, { reject }] of [...this.#pending]) {
      this.#pending.delete(id);
      reject(this.#gone);
    }
  }
}
