import { createInterface } from 'node:readline';
import type { Readable, Writable } from 'node:stream';

/** An event of QEMU, with QEMU's timestamp. */
export interface QmpEvent {
  readonly event: string;
  /** Milliseconds since 1970, to the microsecond, when QEMU sent it. */
  readonly atMs: number;
  readonly data: Readonly<Record<string, unknown>>;
}

interface QmpMessage {
  readonly id?: number;
  readonly return?: unknown;
  readonly error?: { readonly class: string; readonly desc: string };
  readonly event?: string;
  readonly data?: Readonly<Record<string, unknown>>;
  readonly timestamp?: { readonly seconds: number; readonly microseconds: number };
}

interface Pending {
  readonly command: string;
  resolve(value: unknown): void;
  reject(error: Error): void;
}

/** QEMU's machine protocol (docs/interop/qmp-spec.rst): a line of JSON for each command, answer and event. */
export class Qmp {
  /** All events so far, in order. */
  readonly events: QmpEvent[] = [];
  readonly #to: Writable;
  readonly #pending = new Map<number, Pending>();
  #watchers: (() => void)[] = [];
  #next = 0;
  #closed: Error | undefined;

  constructor(from: Readable, to: Writable) {
    this.#to = to;
    // The end of QEMU is reported by `close`, not by the failed write.
    to.on('error', () => {});
    createInterface({ input: from }).on('line', (line) => this.#hear(JSON.parse(line) as QmpMessage));
  }

  /** Executes a command. @throws Error with QEMU's message when it refuses, or when it has ended */
  execute<T = unknown>(command: string, args: Readonly<Record<string, unknown>> = {}): Promise<T> {
    if (this.#closed !== undefined) return Promise.reject(this.#closed);
    const id = this.#next++;
    const answer = new Promise<unknown>((resolve, reject) => {
      this.#pending.set(id, { command, resolve, reject });
    });
    this.#to.write(`${JSON.stringify({ execute: command, arguments: args, id })}\n`);
    return answer as Promise<T>;
  }

  /** Resolves with the first event that matches, of those so far or to come. Rejects when QEMU ends before it. */
  async event(matches: (event: QmpEvent) => boolean): Promise<QmpEvent> {
    for (;;) {
      const found = this.events.find(matches);
      if (found !== undefined) return found;
      if (this.#closed !== undefined) throw this.#closed;
      await new Promise<void>((resolve) => this.#watchers.push(resolve));
    }
  }

  /** Rejects all waits, since QEMU has ended. */
  close(reason: Error): void {
    this.#closed = reason;
    for (const { reject } of this.#pending.values()) reject(reason);
    this.#pending.clear();
    this.#wake();
  }

  #hear(message: QmpMessage): void {
    if (message.event !== undefined) {
      const { seconds = 0, microseconds = 0 } = message.timestamp ?? {};
      this.events.push({
        event: message.event,
        atMs: seconds * 1000 + microseconds / 1000,
        data: message.data ?? {},
      });
      this.#wake();
      return;
    }
    const pending = message.id === undefined ? undefined : this.#pending.get(message.id);
    if (message.id === undefined || pending === undefined) return;
    this.#pending.delete(message.id);
    if (message.error === undefined) pending.resolve(message.return);
    else pending.reject(new Error(`QEMU refused ${pending.command}: ${message.error.desc}`));
  }

  #wake(): void {
    const watchers = this.#watchers;
    this.#watchers = [];
    for (const watcher of watchers) watcher();
  }
}
