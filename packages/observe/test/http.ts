import { type IncomingHttpHeaders, request } from 'node:http';

export interface Answer {
  readonly status: number | undefined;
  readonly headers: IncomingHttpHeaders;
  readonly body: string;
}

/** Sends a request to the page's server, with any method, path and `Host`. */
export function ask(
  port: number,
  path: string,
  { method = 'GET', host = `127.0.0.1:${port}` }: { readonly method?: string; readonly host?: string } = {},
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const asking = request({ port, path, method, headers: { host }, agent: false }, (response) => {
      let body = '';
      response.setEncoding('utf8').on('data', (text) => {
        body += text;
      });
      response.on('end', () => resolve({ status: response.statusCode, headers: response.headers, body }));
      response.on('error', reject);
    });
    asking.on('error', reject);
    asking.end();
  });
}

/** Reads server-sent events: each call of `next` resolves with the data of the next one, as JSON. */
export class EventReader {
  readonly #request;
  readonly #events: string[] = [];
  #wake: () => void = () => {};
  /** Resolves when the server has ended the connection. */
  readonly ended: Promise<void>;

  constructor(url: string) {
    let end: () => void = () => {};
    this.ended = new Promise((resolve) => {
      end = resolve;
    });
    this.#request = request(`${url}events`, { agent: false }, (response) => {
      let text = '';
      response.setEncoding('utf8').on('data', (chunk) => {
        text += chunk;
        const blocks = text.split('\n\n');
        text = blocks.pop() ?? '';
        for (const block of blocks) if (block.startsWith('data: ')) this.#events.push(block.slice(6));
        this.#wake();
      });
      response.on('close', end);
      response.on('error', () => {});
    });
    this.#request.on('error', end);
    this.#request.end();
  }

  async next(): Promise<unknown> {
    while (this.#events.length === 0) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    return JSON.parse(this.#events.shift() ?? '');
  }

  close(): void {
    this.#request.destroy();
  }
}
