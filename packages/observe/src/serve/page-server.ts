import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { type AddressInfo, isIPv6 } from 'node:net';
import { quoted } from '@godwit/core/errors';
import { checkOptions, GodwitError } from '@godwit/core/pages';
import type { ModelBuilder } from '../model/model-builder.js';
import { report } from '../report/report.js';
import { servedAssets } from './assets.js';
import { EventStream } from './event-stream.js';
import { mayAsk } from './host-check.js';

/** Where a page is served, and to whom. */
export interface ServeOptions {
  /** Default 0: any free port. */
  readonly port?: number;
  /** The address to listen at. Default `127.0.0.1`, which only this host reaches. */
  readonly host?: string;
  /** Host names by which the page may be requested, beside `localhost` and IP addresses: that of a proxy, for example. Default: none. */
  readonly allowedHosts?: readonly string[];
  /** What is served as `/metrics`: a `Registry` of prom-client. Default: nothing. */
  readonly metrics?: {
    readonly contentType: string;
    /** Resolves with the text that is served. */
    metrics(): Promise<string>;
  };
}

/** The page may load only its own files, may not be framed, and its scripts may connect only to this server. */
const HEADERS = {
  'Content-Security-Policy':
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  'X-Content-Type-Options': 'nosniff',
  'Referrer-Policy': 'no-referrer',
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cross-Origin-Resource-Policy': 'same-origin',
  'Cache-Control': 'no-store',
};

const MOST_CONNECTIONS = 256;

/**
 * The live page of one migration, over HTTP: `/` is the page, `/events` the stream of its data, `/model.json` the current data,
 * `/report.html` a report of the current state, and `/metrics` the output of `ServeOptions.metrics`.
 *
 * - It is read-only: GET and HEAD, and no request changes anything.
 * - A `Host` with a name that is not allowed is refused (421), against DNS rebinding.
 * - `close` ends every connection and timer.
 *
 * @example
 * await using page = await observation.serve({ port: 8080 });
 * console.log(page.url, page.viewers);
 */
export class PageServer {
  /** Where the page is: `http://127.0.0.1:8080/`. */
  readonly url: string;
  readonly port: number;
  readonly #server: Server;
  readonly #events: EventStream;
  readonly #builder: ModelBuilder;
  readonly #poll: () => void;
  readonly #options: ServeOptions;
  readonly #onClose: () => void;
  #closing: Promise<void> | undefined;

  private constructor(
    server: Server,
    builder: ModelBuilder,
    poll: () => void,
    options: ServeOptions,
    onClose: () => void,
  ) {
    const { address, port } = server.address() as AddressInfo;
    this.port = port;
    this.url = `http://${isIPv6(address) ? `[${address}]` : address}:${port}/`;
    this.#server = server;
    this.#builder = builder;
    this.#poll = poll;
    this.#options = options;
    this.#onClose = onClose;
    this.#events = new EventStream(builder, poll);
    server.on('request', (request: IncomingMessage, response: ServerResponse) => this.#answer(request, response));
  }

  /** @internal Use `Observation.serve`. */
  static async start(
    builder: ModelBuilder,
    poll: () => void,
    options: ServeOptions,
    onClose: () => void,
  ): Promise<PageServer> {
    checkOptions<ServeOptions>('serve', options, { port: true, host: true, allowedHosts: true, metrics: true });
    const { port = 0, host = '127.0.0.1' } = options;
    if (!Number.isInteger(port) || port < 0 || port > 65_535) {
      throw new GodwitError(
        'GODWIT_INVALID_ARGUMENT',
        `port must be a whole number from 0 to 65535, got ${quoted(port)}`,
      );
    }
    const server = createServer();
    server.maxConnections = MOST_CONNECTIONS;
    try {
      server.listen({ port, host });
      await once(server, 'listening');
    } catch (error) {
      // A server that never listened has a timer too, which `close` ends.
      server.close(() => {});
      const message = `the page cannot be served at ${host}, port ${port}: ${(error as Error).message}; choose another port, or 0 for one that is free`;
      throw new GodwitError('GODWIT_SYSCALL', message, { cause: error });
    }
    return new PageServer(server, builder, poll, options, onClose);
  }

  /** The number of current viewers. */
  get viewers(): number {
    return this.#events.viewers;
  }

  /** Ends every connection; resolves when all of them are closed. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  /** Closes the page at the end of an `await using` block. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #close(): Promise<void> {
    this.#onClose();
    this.#events.close();
    const closed = once(this.#server, 'close');
    this.#server.close();
    this.#server.closeAllConnections();
    await closed;
  }

  #answer(request: IncomingMessage, response: ServerResponse): void {
    for (const [name, value] of Object.entries(HEADERS)) response.setHeader(name, value);
    response.on('error', () => {});
    if (!mayAsk(request.headers.host, [this.#options.host ?? '', ...(this.#options.allowedHosts ?? [])])) {
      refuse(response, 421, 'This page is not served under that name: allow it by allowedHosts.');
      return;
    }
    if (request.method !== 'GET' && request.method !== 'HEAD') {
      response.setHeader('Allow', 'GET, HEAD');
      refuse(response, 405, 'This page can only be read.');
      return;
    }
    const path = (request.url ?? '').replace(/\?.*$/, '');
    const asset = servedAssets().get(path);
    if (asset !== undefined) send(response, asset.contentType, asset.body);
    else if (path === '/events') this.#stream(request, response);
    else if (path === '/model.json') send(response, 'application/json', JSON.stringify(this.#model()));
    else if (path === '/report.html') this.#report(response);
    else if (path === '/metrics' && this.#options.metrics !== undefined) void this.#metrics(response);
    else refuse(response, 404, 'There is no such page.');
  }

  #model() {
    this.#poll();
    return this.#builder.model();
  }

  #stream(request: IncomingMessage, response: ServerResponse): void {
    if (request.method === 'HEAD') send(response, 'text/event-stream; charset=utf-8', '');
    else if (!this.#events.add(response)) {
      response.setHeader('Retry-After', '5');
      refuse(response, 503, 'Too many people look at this page.');
    }
  }

  #report(response: ServerResponse): void {
    response.setHeader('Content-Disposition', 'attachment; filename="migration.html"');
    send(response, 'text/html; charset=utf-8', report(this.#model()));
  }

  async #metrics(response: ServerResponse): Promise<void> {
    const { metrics } = this.#options;
    try {
      const text = (await metrics?.metrics()) ?? '';
      send(response, metrics?.contentType ?? 'text/plain', text);
    } catch (error) {
      refuse(response, 500, `The metrics cannot be collected: ${(error as Error).message}`);
    }
  }
}

/** Node leaves the body out of the answer to HEAD. */
function send(response: ServerResponse, contentType: string, body: string): void {
  response.writeHead(200, { 'Content-Type': contentType, 'Content-Length': Buffer.byteLength(body) });
  response.end(body);
}

function refuse(response: ServerResponse, status: number, text: string): void {
  response.writeHead(status, { 'Content-Type': 'text/plain; charset=utf-8' });
  response.end(`${text}\n`);
}
