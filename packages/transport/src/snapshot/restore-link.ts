import { randomBytes } from 'node:crypto';
import {
  FEATURES,
  type Frame,
  type FrameStream,
  GodwitError,
  type HelloFrame,
  type IncomingLink,
  PROTOCOL_VERSION,
  type ReceivedFrame,
} from '@godwit/core';
import { FrameMailbox } from './frame-mailbox.js';
import { byteCount, digestBytes } from './page-segments.js';
import type { BlockIndex } from './snapshot-metadata.js';
import { type SnapshotBatch, SnapshotReader, scatter } from './snapshot-reader.js';

/** Most bytes of pages in one frame: large enough that per-frame cost vanishes. */
const BATCH_BYTES = 2 ** 20;

/** Most runs in one frame: each is a read of its own. */
const BATCH_RUNS = 512;

/** Most digests in one frame: the pages of 4 MiB, two or three milliseconds of work. */
const DIGEST_PAGES = 1024;

export interface RestoreOptions {
  /** Page channels, each with a read under way while others are checked; default: as many as it was saved with. */
  readonly pageChannels?: number | undefined;
  /**
   * Offer the feature `verify`: when all is loaded, the engine compares guest memory with the snapshot's digests once
   * more. Each page is checked when it is read anyway. Default false.
   */
  readonly verify?: boolean | undefined;
}

/** A frame for the destination, with what fills its payload. */
interface Outgoing {
  readonly frame: Frame;
  readonly payloadBytes: number;
  readonly fill?: (into: readonly Uint8Array[]) => Promise<void> | void;
}

/** Opens the snapshot at `path`, and plays the source of a migration from it. */
export async function restoreFrom(path: string, options: RestoreOptions): Promise<IncomingLink> {
  const restore = new Restore(await SnapshotReader.open(path), options);
  return {
    control: restore.control,
    peer: `file:${path}`,
    pageChannels: async () => restore.channels,
  };
}

/**
 * The source's part of a migration, spoken by a file: one round of all pages that are not zero, the devices, `go`. The
 * file stays what it is: whoever restores it twice has two guests.
 */
class Restore {
  readonly control: RestoreStream;
  readonly channels: readonly RestoreStream[];
  readonly answers = new FrameMailbox();
  readonly #reader: SnapshotReader;
  readonly #hello: HelloFrame;
  /** Known once the destination has agreed to the blocks: only then is an index of their size worth its memory. */
  readonly #index: Promise<readonly BlockIndex[]>;
  #readIndex: () => void = () => {};
  #batches: Iterator<SnapshotBatch> | undefined;
  #maximumPayload = 0;
  #pages = 0;
  #markOver: () => void = () => {};
  readonly over: Promise<void>;

  constructor(reader: SnapshotReader, { pageChannels, verify = false }: RestoreOptions) {
    this.#reader = reader;
    const saved = reader.metadata.hello;
    this.#hello = {
      ...saved,
      minimumVersion: PROTOCOL_VERSION.minimum,
      maximumVersion: PROTOCOL_VERSION.maximum,
      // Each restore is a migration of its own.
      migrationId: randomBytes(16).toString('hex'),
      connection: 1,
      stage: 'running',
      features: verify ? [FEATURES.verify] : [],
      pageChannels: pageChannels ?? saved.pageChannels,
    };
    this.#index = new Promise((resolve, reject) => {
      this.#readIndex = () => {
        reader.readIndex().then(resolve, reject);
      };
    });
    this.#index.catch(() => {});
    this.over = new Promise((resolve) => {
      this.#markOver = resolve;
    });
    this.control = new RestoreStream(this, this.#script());
    const channels = Math.min(this.#hello.pageChannels, 1024);
    this.channels = Array.from({ length: channels }, () => new RestoreStream(this, this.#channel()));
  }

  /** Takes what the destination says. */
  heard(frame: Frame): void {
    if (frame.type === 'welcome') {
      this.#maximumPayload = frame.maximumPayload;
      this.#readIndex();
    }
    if (frame.type === 'error') this.end();
    else if (frame.type === 'ping') this.control.interject({ type: 'pong', id: frame.id });
    else this.answers.put(frame);
  }

  end(): void {
    this.answers.end();
    this.#markOver();
    void this.#reader.close();
  }

  fail(reason: GodwitError): void {
    this.answers.fail(reason);
    this.end();
  }

  settled(): Promise<void> {
    return this.#reader.close();
  }

  async *#script(): AsyncGenerator<Outgoing, void> {
    yield said(this.#hello);
    const { features } = await this.answers.expect('welcome');
    if (this.channels.length === 0) yield* this.#round();
    const { pages } = await this.answers.expect('roundAck');
    if (pages !== this.#pages) {
      throw new GodwitError(
        'GODWIT_PROTOCOL',
        `${this.#pages} pages were restored, the destination acknowledged ${pages}`,
      );
    }
    yield* this.#devices();
    yield said({ type: 'switchover', round: 1, attempt: 1, runState: 'running' });
    await this.answers.expect('ready');
    if (features.includes(FEATURES.verify)) yield* this.#digests();
    yield said({ type: 'go', attempt: 1 });
    await this.answers.expect('running');
    yield said({ type: 'released' });
    await this.over;
  }

  async *#channel(): AsyncGenerator<Outgoing, void> {
    yield* this.#round();
    await this.over;
  }

  /** One stream's share of the only round: whichever stream asks gets the next batch. */
  async *#round(): AsyncGenerator<Outgoing, void> {
    const index = await this.#index;
    this.#batches ??= this.#cut(index);
    let pages = 0;
    for (let next = this.#batches.next(); !next.done; next = this.#batches.next()) {
      const batch = next.value;
      pages += batch.pages;
      this.#pages += batch.pages;
      yield {
        frame: { type: 'pages', round: 1, block: batch.block, runs: batch.runs },
        payloadBytes: batch.pages * this.#hello.pageSize,
        fill: (into) => this.#reader.readPages(batch, index[batch.block] as BlockIndex, into),
      };
    }
    yield said({ type: 'roundEnd', round: 1, pages });
  }

  *#cut(index: readonly BlockIndex[]): Generator<SnapshotBatch> {
    const most = Math.max(1, Math.floor(Math.min(BATCH_BYTES, this.#maximumPayload) / this.#hello.pageSize));
    yield* batches(index, most, BATCH_RUNS);
  }

  async *#devices(): AsyncGenerator<Outgoing, void> {
    const sequences = this.#hello.devices.map(() => 0);
    const next = (device: number): number => {
      const sequence = sequences[device] as number;
      sequences[device] = sequence + 1;
      return sequence;
    };
    for (const piece of this.#reader.metadata.pieces) {
      const { device, byteLength } = piece;
      yield {
        frame: { type: 'device', device, sequence: next(device), last: false, attempt: 0 },
        payloadBytes: byteLength,
        fill: (into) => this.#reader.readPiece(piece, into),
      };
    }
    for (const device of sequences.keys()) {
      yield said({ type: 'device', device, sequence: next(device), last: true, attempt: 0 });
    }
  }

  async *#digests(): AsyncGenerator<Outgoing, void> {
    const index = await this.#index;
    const most = Math.max(1, Math.min(DIGEST_PAGES, Math.floor(this.#maximumPayload / 8)));
    for (const { block, runs, pages, firstDigest } of batches(index, most, BATCH_RUNS)) {
      const bytes = digestBytes((index[block] as BlockIndex).digests, firstDigest * 2, pages);
      yield {
        frame: { type: 'digests', block, runs },
        payloadBytes: bytes.length,
        fill: (into) => scatter(bytes, into),
      };
    }
    yield said({ type: 'digestsEnd' });
    const { pagesDifferent } = await this.answers.expect('verified');
    if (pagesDifferent === 0) return;
    const message = `${pagesDifferent} pages differ from the snapshot after all was loaded; a writer of guest memory is at work`;
    yield said({ type: 'error', code: 'GODWIT_VERIFY_FAILED', message, retry: false });
    await this.over;
  }
}

/** All present pages in ascending order, in batches of at most so many pages and runs. */
function* batches(index: readonly BlockIndex[], mostPages: number, mostRuns: number): Generator<SnapshotBatch> {
  for (const [block, { present }] of index.entries()) {
    let firstDigest = 0;
    let runs: number[] = [];
    let pages = 0;
    for (let page = present.nextDirty(0); page !== -1; ) {
      const stop = Math.min(present.nextClean(page), page + mostPages - pages);
      runs.push(page, stop - page);
      pages += stop - page;
      page = present.nextDirty(stop);
      if (page !== -1 && pages < mostPages && runs.length < mostRuns * 2) continue;
      yield { block, runs, pages, firstDigest };
      firstDigest += pages;
      runs = [];
      pages = 0;
    }
  }
}

function said(frame: Frame): Outgoing {
  return { frame, payloadBytes: 0 };
}

/** One stream of a restore, as the destination sees it. */
class RestoreStream implements FrameStream {
  readonly bytesWritten = 0;
  bytesRead = 0;
  readonly #restore: Restore;
  readonly #script: AsyncGenerator<Outgoing, void>;
  /** The script's next frame, which may be long in coming. */
  #step: Promise<IteratorResult<Outgoing, void>> | undefined;
  readonly #interjected: Frame[] = [];
  #wake: () => void = () => {};
  #last: Outgoing | undefined;

  constructor(restore: Restore, script: AsyncGenerator<Outgoing, void>) {
    this.#restore = restore;
    this.#script = script;
  }

  async write(frame: Frame): Promise<void> {
    this.#restore.heard(frame);
  }

  /** Says something between the script's frames. */
  interject(frame: Frame): void {
    this.#interjected.push(frame);
    this.#wake();
  }

  async read(): Promise<ReceivedFrame | null> {
    for (;;) {
      const frame = this.#interjected.shift();
      if (frame !== undefined) return { frame, payloadBytes: 0 };
      this.#step ??= this.#script.next();
      const woken = new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
      const step = await Promise.race([this.#step, woken]);
      if (step === undefined) continue;
      this.#step = undefined;
      if (step.done) return null;
      this.#last = step.value;
      return { frame: step.value.frame, payloadBytes: step.value.payloadBytes };
    }
  }

  async readPayload(into: readonly Uint8Array[]): Promise<void> {
    const { fill, payloadBytes = 0 } = this.#last ?? {};
    const bytes = byteCount(into);
    if (bytes !== payloadBytes) {
      throw new GodwitError('GODWIT_INVALID_ARGUMENT', `the payload has ${payloadBytes} bytes, the chunks ${bytes}`);
    }
    await fill?.(into);
    this.bytesRead += bytes;
  }

  async skipPayload(): Promise<void> {}

  async close(): Promise<void> {
    this.#restore.end();
    await this.#restore.settled();
  }

  abort(reason: GodwitError): void {
    this.#restore.fail(reason);
  }

  settled(): Promise<void> {
    return this.#restore.settled();
  }
}
