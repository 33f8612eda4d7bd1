import { type ErrorCode, GodwitError, type MigrationEvent } from '@godwit/core';
import { type ByteStream, type Listener, unix } from '@godwit/transport';
import { checkRequest, idOf } from './check-request.js';
import { errorAnswer } from './control-error.js';
import type { AnswerLine, ControlCommand, ControlCommands, RequestLine } from './control-protocol.js';
import { linesOf } from './line-reader.js';
import { LineWriter } from './line-writer.js';

/**
 * The handler of each command; `emit` sends an event of the migration to the client that has asked. The client gets a rejection as its
 * error.
 */
export type ControlHandlers = {
  readonly [Name in ControlCommand]: (
    request: ControlCommands[Name]['request'],
    emit: (event: MigrationEvent) => void,
  ) => Promise<ControlCommands[Name]['reply']>;
};

/** The longest line of a client, in bytes. */
const LONGEST_LINE = 64 * 1024;
/** The most unanswered requests of one client. */
const MOST_REQUESTS = 16;
const MOST_CLIENTS = 64;
/** How long `close` waits for a client to read its answers, in milliseconds. */
const LAST_WORDS_MS = 1000;

/**
 * A VMM's control socket: any number of clients of its own user, each with requests that may overlap. A client that sends a line without
 * end, or does not read, is cut off; of too many clients, the one that has been idle longest is. The VMM is not affected.
 */
export class ControlServer {
  /** The path of the socket. */
  readonly path: string;
  readonly #listener: Listener;
  readonly #handlers: ControlHandlers;
  /** The clients in the order of their last request. */
  readonly #clients = new Set<Client>();
  readonly #serving: Promise<void>;

  private constructor(path: string, listener: Listener, handlers: ControlHandlers) {
    this.path = path;
    this.#listener = listener;
    this.#handlers = handlers;
    this.#serving = this.#serve();
  }

  /**
   * Listens at `path`, with mode 0600. The socket file of a dead process is replaced; that of a living one and any other file is refused.
   *
   * @throws GodwitError GODWIT_CONNECT_FAILED, GODWIT_INVALID_ARGUMENT for a path that is too long
   */
  static async listen(path: string, handlers: ControlHandlers): Promise<ControlServer> {
    return new ControlServer(path, await unix({ path, mode: 0o600 }).listen(), handlers);
  }

  /** Removes the socket, lets clients read their answers, and closes the connections. */
  async close(): Promise<void> {
    await this.#listener.close();
    await this.#serving;
    await Promise.all([...this.#clients].map((client) => client.end()));
  }

  async #serve(): Promise<void> {
    try {
      for (;;) this.#welcome(await this.#listener.accept());
    } catch {
      // The listener is closed.
    }
  }

  #welcome(stream: ByteStream): void {
    if (this.#clients.size >= MOST_CLIENTS) {
      const idle = [...this.#clients].find(({ busy }) => !busy);
      const message = `there are ${MOST_CLIENTS} clients already`;
      if (idle === undefined) {
        stream.abort(new GodwitError('GODWIT_LIMIT_EXCEEDED', message));
        return;
      }
      this.#clients.delete(idle);
      idle.refuse('GODWIT_LIMIT_EXCEEDED', `${message}, and this one has asked for nothing for the longest time`);
    }
    const client = new Client(stream, (line, emit) => this.#answer(client, line, emit));
    this.#clients.add(client);
    void client.serve().finally(() => this.#clients.delete(client));
  }

  #answer(client: Client, { command, request }: RequestLine, emit: (event: MigrationEvent) => void): Promise<unknown> {
    // A client that was deleted meanwhile is not added again.
    if (this.#clients.delete(client)) this.#clients.add(client);
    const handler = this.#handlers[command] as (request: unknown, emit: unknown) => Promise<unknown>;
    return handler(request, emit);
  }
}

class Client {
  readonly #stream: ByteStream;
  readonly #writer: LineWriter;
  readonly #answer: (line: RequestLine, emit: (event: MigrationEvent) => void) => Promise<unknown>;
  readonly #onIdle: (() => void)[] = [];
  #pending = 0;

  constructor(
    stream: ByteStream,
    answer: (line: RequestLine, emit: (event: MigrationEvent) => void) => Promise<unknown>,
  ) {
    this.#stream = stream;
    this.#writer = new LineWriter(stream);
    this.#answer = answer;
  }

  get busy(): boolean {
    return this.#pending > 0;
  }

  /** Serves the client; resolves when it is gone. */
  async serve(): Promise<void> {
    try {
      for await (const line of linesOf(this.#stream, LONGEST_LINE)) if (line.trim() !== '') this.#take(line);
      // The client sends no more requests, but may still read answers.
      if (this.busy) await new Promise<void>((resolve) => this.#onIdle.push(resolve));
      await this.end();
    } catch (error) {
      const { code, message } = GodwitError.wrap(error, 'GODWIT_LINK_LOST', 'the client is gone');
      this.refuse(code, message);
    }
  }

  /** Sends the reason, and closes the connection. */
  refuse(code: ErrorCode, message: string): void {
    this.#writer.line({ id: null, error: { code, message, retry: false } } satisfies AnswerLine);
    void this.end();
  }

  async end(): Promise<void> {
    const cut = setTimeout(
      () => this.#writer.cut(new GodwitError('GODWIT_TIMEOUT', 'the client does not read')),
      LAST_WORDS_MS,
    );
    await this.#writer.end();
    clearTimeout(cut);
    // `cut` drops the connection, so that requests which the client has sent meanwhile are not read.
    this.#writer.cut(new GodwitError('GODWIT_LINK_LOST', 'the VMM has hung up'));
  }

  #take(text: string): void {
    let line: unknown;
    let id: RequestLine['id'] = null;
    let command = 'answer';
    const run = async (): Promise<unknown> => {
      line = parsed(text);
      id = idOf(line);
      const request = checkRequest(line);
      command = request.command;
      if (this.#pending > MOST_REQUESTS) {
        const message = `${MOST_REQUESTS} requests are unanswered: wait for one of them`;
        throw new GodwitError('GODWIT_LIMIT_EXCEEDED', message, { retry: true });
      }
      return this.#answer(request, (event) => this.#emit(id, event));
    };
    this.#pending++;
    void run()
      .then(
        (reply) => this.#writer.line({ id, reply } satisfies AnswerLine),
        (error: unknown) => this.#writer.line({ id, error: errorAnswer(error, command) } satisfies AnswerLine),
      )
      .finally(() => {
        this.#pending--;
        if (this.#pending === 0) for (const resolve of this.#onIdle.splice(0)) resolve();
      });
  }

  #emit(id: RequestLine['id'], event: MigrationEvent): void {
    this.#writer.line({ id, event } satisfies AnswerLine, event.type === 'progress' ? `progress of ${id}` : undefined);
  }
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    const message = `a request is JSON on one line, such as {"id":1,"command":"status"}: ${(error as Error).message}`;
    throw new GodwitError('GODWIT_INVALID_ARGUMENT', message);
  }
}
