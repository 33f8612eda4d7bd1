import type { ServerResponse } from 'node:http';
import type { ModelBuilder } from '../model/model-builder.js';
import type { ModelPatch } from '../model/model-patch.js';
import { PatchMaker } from '../model/patch-maker.js';

/** How often changes are sent to viewers, in milliseconds. */
const TICK_MS = 200;
/** Something is written at least this often, so that both ends notice a dead connection. */
const KEEPALIVE_MS = 15_000;
/** Most viewers at a time. */
const MOST_VIEWERS = 64;

/**
 * The viewers of one page, by server-sent events: each gets the whole model first, then what has changed. A slow viewer skips
 * changes and gets the whole model once it has read the earlier data, so that nothing piles up. A timer runs only while there are
 * viewers.
 */
export class EventStream {
  readonly #patches: PatchMaker;
  readonly #poll: () => void;
  readonly #viewers = new Set<ServerResponse>();
  /** Viewers that have missed a change, since they had not yet read the one before. */
  readonly #behind = new Set<ServerResponse>();
  #timer: NodeJS.Timeout | undefined;
  #last = '';
  #quietMs = 0;

  constructor(builder: ModelBuilder, poll: () => void) {
    this.#patches = new PatchMaker(builder);
    this.#poll = poll;
  }

  get viewers(): number {
    return this.#viewers.size;
  }

  /** Adds a viewer, whose response has no headers yet. Returns false when there are too many. */
  add(response: ServerResponse): boolean {
    if (this.#viewers.size >= MOST_VIEWERS) return false;
    response.writeHead(200, { 'Content-Type': 'text/event-stream; charset=utf-8' });
    response.on('close', () => this.#remove(response));
    response.on('error', () => this.#remove(response));
    response.on('drain', () => {
      if (this.#behind.delete(response)) this.#write(response, this.#patches.whole());
    });
    this.#viewers.add(response);
    response.write('retry: 1000\n\n');
    this.#poll();
    this.#write(response, this.#patches.whole());
    this.#timer ??= setInterval(() => this.#tick(), TICK_MS);
    return true;
  }

  /** Ends all viewers' connections, and the timer. */
  close(): void {
    for (const viewer of [...this.#viewers]) {
      viewer.end();
      this.#remove(viewer);
    }
  }

  #remove(response: ServerResponse): void {
    this.#viewers.delete(response);
    this.#behind.delete(response);
    if (this.#viewers.size > 0) return;
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  #tick(): void {
    this.#poll();
    const patch = this.#patches.next();
    const text = JSON.stringify(patch);
    if (text === this.#last) {
      this.#quietMs += TICK_MS;
      if (this.#quietMs < KEEPALIVE_MS) return;
      this.#quietMs = 0;
      for (const viewer of this.#viewers) if (!viewer.writableNeedDrain) viewer.write(': still here\n\n');
      return;
    }
    this.#last = text;
    this.#quietMs = 0;
    for (const viewer of this.#viewers) {
      if (viewer.writableNeedDrain) this.#behind.add(viewer);
      else viewer.write(`data: ${text}\n\n`);
    }
  }

  #write(response: ServerResponse, patch: ModelPatch): void {
    if (this.#viewers.has(response)) response.write(`data: ${JSON.stringify(patch)}\n\n`);
  }
}
