import { randomBytes } from 'node:crypto';
import {
  type ComingPages,
  FEATURES,
  type Frame,
  type FrameStream,
  GodwitError,
  type HelloFrame,
  type IncomingLink,
  PROTOCOL_VERSION,
  type ReceivedFrame,
} from '@godwit/core';
import { LinkPhases } from '../recording/link-phases.js';
import { FrameMailbox } from './frame-mailbox.js';
import { byteCount, digestBytes } from './page-segments.js';
import type { BlockIndex, DevicePiece } from './snapshot-metadata.js';
import { type SnapshotBatch, SnapshotReader, scatter } from './snapshot-reader.js';

/** Most bytes of pages in one frame: large enough that the cost per frame is negligible. */
const BATCH_BYTES = 2 ** 20;

/** Most runs in one frame: each is a read of its own. */
const BATCH_RUNS = 512;

/**
 * Reads that are under way at a time, or wait for their pages to be checked: twice the threads that Node has for files, so that none of
 * these waits for a check. 2 GiB into fresh memory took 1.1 to 1.3 s with 8, 1.5 to 1.7 s with 4, and 1.4 to 1.9 s with 3.
 */
const READS_AT_ONCE = 8;

/** Most digests in one frame: the pages of 4 MiB, two or three milliseconds of work. */
const DIGEST_PAGES = 1024;

/** Most bytes of device state that are read ahead. */
const READ_AHEAD_BYTES = 4 * 2 ** 20;

export interface RestoreOptions {
  /**
   * The number of page channels, each with a read under way while the pages of others are checked; default: the number with which the
   * snapshot was saved, and 8 at least.
   */
  readonly pageChannels?: number | undefined;
  /**
   * Offer the feature `verify`: when all is loaded, the engine compares guest memory with the snapshot's digests once
   * more. Each page is checked when it is read in any case. Default false.
   */
  readonly verify?: boolean | undefined;
}

/** The only stop-and-copy of a restore. */
const ATTEMPT = 1;

/** A frame for the destination, with the function that fills its payload. */
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
    comingPages: () => restore.comingPages(),
  };
}

/**
 * The source of a migration from a file: it sends one round of all pages that are not zero, the devices, and `go`. The
 * file is not changed: restoring it twice makes two guests.
 *
 * No guest is paused meanwhile, so that the destination is not asked to be prepared, and no attempt is given up and
 * repeated.
 */
class Restore {
  readonly control: RestoreStream;
  readonly channels: readonly RestoreStream[];
  readonly answers = new FrameMailbox();
  readonly #reader: SnapshotReader;
  readonly #hello: HelloFrame;
  readonly #phases = new LinkPhases();
  /** The index, which is read only once the destination has accepted the blocks, since its size depends on theirs. */
  readonly #index: Promise<readonly BlockIndex[]>;
  #readIndex: () => void = () => {};
  #batches: Iterator<SnapshotBatch> | undefined;
  /** True when the pages come while the guest runs, and are not sent here. */
  #pagesCome = false;
  readonly #ahead = new Map<DevicePiece, Promise<Uint8Array>>();
  #maximumPayload = 0;
  #pages = 0;
  #markOver: () => void = () => {};
  readonly over: Promise<void>;

  constructor(reader: SnapshotReader, { pageChannels, verify = false }: RestoreOptions) {
    this.#reader = reader;
    const { hello: saved, pieces } = reader.metadata;
    const stateBytes = saved.devices.map(() => 0);
    for (const { device, byteLength } of pieces) stateBytes[device] = (stateBytes[device] as number) + byteLength;
    this.#hello = {
      ...saved,
      minimumVersion: PROTOCOL_VERSION.minimum,
      maximumVersion: PROTOCOL_VERSION.maximum,
      // Each restore is a migration of its own.
      migrationId: randomBytes(16).toString('hex'),
      connection: 1,
      stage: 'running',
      attempt: ATTEMPT,
      blocks: saved.blocks.map((block) => ({ ...block, identity: '' })),
      devices: saved.devices.map((device, i) => ({ ...device, stateBytes: stateBytes[i] as number })),
      features: verify ? [FEATURES.verify] : [],
      pageChannels: pageChannels ?? Math.max(READS_AT_ONCE, saved.pageChannels),
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
    this.control = new RestoreStream(this, this.#script(), false);
    const channels = Math.min(this.#hello.pageChannels, 1024);
    this.channels = Array.from({ length: channels }, () => new RestoreStream(this, this.#channel(), true));
  }

  /** Prepares for a guest that runs before its pages are there. */
  async comingPages(): Promise<ComingPages> {
    this.#pagesCome = true;
    this.#readAhead();
    const contents = await this.#reader.readBitmaps();
    const workingSet = await this.#reader.readWorkingSet();
    return { contents, workingSet, source: this.#reader.pagesRecipe(contents) };
  }

  /** Reads all device state at once, if it is small, since the guest waits only for the devices. */
  #readAhead(): void {
    const { pieces } = this.#reader.metadata;
    const bytes = pieces.reduce((sum, { byteLength }) => sum + byteLength, 0);
    if (bytes > READ_AHEAD_BYTES) return;
    for (const piece of pieces) {
      const into = new Uint8Array(piece.byteLength);
      const reading = this.#reader.readPiece(piece, [into]).then(() => into);
      // A failure is reported when the piece is sent.
      reading.catch(() => {});
      this.#ahead.set(piece, reading);
    }
  }

  /** Takes a frame of the destination. Throws `GODWIT_PROTOCOL` for a frame that is illegal now. */
  heard(frame: Frame, onPageChannel: boolean): void {
    const objection = this.#phases.take(frame, 'destination', Number(onPageChannel));
    if (objection !== undefined) {
      const error = new GodwitError('GODWIT_PROTOCOL', `restoring from a file: ${objection}`);
      this.fail(error);
      throw error;
    }
    switch (frame.type) {
      case 'welcome':
        this.#maximumPayload = frame.maximumPayload;
        if (!this.#pagesCome) this.#readIndex();
        this.answers.put(frame);
        break;
      case 'error':
        this.end();
        break;
      case 'ping':
        this.control.interject({ type: 'pong', id: frame.id });
        break;
      // A file has nothing to do for these frames: it never goes back, and loads nothing while a guest runs.
      case 'pong':
      case 'owed':
      case 'loaded':
        break;
      default:
        this.answers.put(frame);
    }
  }

  /** Notes that the destination has taken this frame. */
  handed(frame: Frame, onPageChannel: boolean): void {
    this.#phases.take(frame, 'source', Number(onPageChannel));
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
    const { features, maximumDeviceState } = await this.answers.expect('welcome');
    const state = this.#hello.devices.reduce((sum, { stateBytes }) => sum + stateBytes, 0);
    if (state > maximumDeviceState) {
      const message = `the devices in the snapshot have ${state} bytes of state, the destination takes ${maximumDeviceState}; raise its maximumDeviceState`;
      yield said({ type: 'error', code: 'GODWIT_LIMIT_EXCEEDED', message, retry: false });
      await this.over;
      return;
    }
    if (this.channels.length === 0) yield* this.#round();
    const { pages } = await this.answers.expect('roundAck');
    if (pages !== this.#pages) {
      throw new GodwitError(
        'GODWIT_PROTOCOL',
        `${this.#pages} pages were restored, the destination acknowledged ${pages}`,
      );
    }
    yield* this.#devices();
    const { runState } = this.#reader.metadata;
    yield said({ type: 'switchover', round: 1, attempt: ATTEMPT, runState });
    const { attempt } = await this.answers.expect('ready');
    if (attempt !== ATTEMPT) {
      throw new GodwitError('GODWIT_PROTOCOL', `"ready" came for stop-and-copy ${attempt} of a restore, which has one`);
    }
    // Pages that come later are compared with their digests one by one.
    if (features.includes(FEATURES.verify) && !this.#pagesCome) yield* this.#digests();
    yield said({ type: 'go', attempt: ATTEMPT });
    await this.answers.expect('running');
    yield said({ type: 'released' });
    await this.over;
  }

  async *#channel(): AsyncGenerator<Outgoing, void> {
    yield* this.#round();
    await this.over;
  }

  /** One stream's share of the only round: each stream that asks gets the next batch. */
  async *#round(): AsyncGenerator<Outgoing, void> {
    if (this.#pagesCome) {
      yield said({ type: 'roundEnd', round: 1, pages: 0 });
      return;
    }
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
        frame: { type: 'device', device, sequence: next(device), last: false, attempt: ATTEMPT },
        payloadBytes: byteLength,
        fill: async (into) => {
          const ahead = this.#ahead.get(piece);
          if (ahead === undefined) await this.#reader.readPiece(piece, into);
          else scatter(await ahead, into);
        },
      };
    }
    for (const device of sequences.keys()) {
      yield said({ type: 'device', device, sequence: next(device), last: true, attempt: ATTEMPT });
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

/** All present pages in ascending order, in batches of at most `mostPages` pages and `mostRuns` runs. */
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

/** One stream of a restore, at the destination's end. */
class RestoreStream implements FrameStream {
  readonly bytesWritten = 0;
  /** Bytes of payloads. Each answer to a `ping` counts as one byte, so that a restore whose pages come beside the streams is not silent. */
  bytesRead = 0;
  readonly #restore: Restore;
  readonly #script: AsyncGenerator<Outgoing, void>;
  readonly #onPageChannel: boolean;
  /** The pending request for the script's next frame, which may take long. */
  #step: Promise<IteratorResult<Outgoing, void>> | undefined;
  readonly #interjected: Frame[] = [];
  #wake: () => void = () => {};
  #last: Outgoing | undefined;

  constructor(restore: Restore, script: AsyncGenerator<Outgoing, void>, onPageChannel: boolean) {
    this.#restore = restore;
    this.#script = script;
    this.#onPageChannel = onPageChannel;
  }

  async write(frame: Frame): Promise<void> {
    this.#restore.heard(frame, this.#onPageChannel);
  }

  /** Sends a frame between the script's frames. */
  interject(frame: Frame): void {
    this.#interjected.push(frame);
    this.#wake();
  }

  async read(): Promise<ReceivedFrame | null> {
    for (;;) {
      const frame = this.#interjected.shift();
      if (frame !== undefined) {
        this.bytesRead++;
        return { frame, payloadBytes: 0 };
      }
      this.#step ??= this.#script.next();
      const woken = new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
      const step = await Promise.race([this.#step, woken]);
      if (step === undefined) continue;
      this.#step = undefined;
      if (step.done) return null;
      this.#last = step.value;
      this.#restore.handed(step.value.frame, this.#onPageChannel);
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
