import {
  FEATURES,
  type Frame,
  type FrameStream,
  GodwitError,
  type HelloFrame,
  type LinkConnector,
  type MigrationLink,
  PROTOCOL_VERSION,
  type ReceivedFrame,
  SOFTWARE,
} from '@godwit/core';
import { cancelled, throwIfCancelled } from '../stream/cancellation.js';
import { FrameMailbox } from './frame-mailbox.js';
import { pageCount } from './page-segments.js';
import { PartialFile } from './partial-file.js';
import { SaveCheck } from './save-check.js';
import { MOST_PIECE_BYTES } from './snapshot-metadata.js';
import { SnapshotWriter } from './snapshot-writer.js';

/** The control stream's index; page channels count from 0. */
const CONTROL = -1;

/** Saves to `path`: the source migrates to a destination that is this file. */
export function saveTo(path: string): LinkConnector {
  return {
    async connect({ pageChannels, connection }, signal): Promise<MigrationLink> {
      throwIfCancelled(signal, `saving to ${path}`);
      if (connection > 1) {
        throw new GodwitError(
          'GODWIT_CONNECT_FAILED',
          `a save to ${path} that has ended is not taken up again; look at the error that it ended with, and save anew`,
        );
      }
      const partial = await PartialFile.create(path);
      if (signal.aborted) {
        await partial.discard();
        throw cancelled(signal, `saving to ${path}`);
      }
      const save = new Save(partial, pageChannels);
      return {
        control: new SaveStream(save, CONTROL),
        pageChannels: Array.from({ length: pageChannels }, (_, index) => new SaveStream(save, index)),
        peer: `file:${path}`,
      };
    },
  };
}

/**
 * The destination's part of a migration, spoken by a file. The file votes and commits as in a two-phase commit:
 *
 * ```
 * pages, devices     into a temporary file, flushed at each round's end
 * switchover         index, checksums, header, fsync: whole and durable, but without its name
 * ready              all that can fail for want of room, rights or a disk that works has been done
 * [verified          the pages read back are the source's]
 * go                 rename, fsync of the directory: the commit, one atomic step
 * running            the snapshot is there, after a power failure too. Nobody runs the guest
 * ```
 *
 * Until `go` the source may resume, and does on any failure: so until then nothing may bear the snapshot's name, and an
 * older snapshot keeps it. After `go` the source never resumes by itself: so by then nothing may be left that can
 * reasonably fail. Whatever fails before `go` removes the file; after it, the file is the guest, and stays.
 */
class Save {
  readonly #partial: PartialFile;
  readonly #channels: number;
  readonly answers = new FrameMailbox();
  /** Resolves when the save has ended, whichever way. */
  readonly over: Promise<void>;
  #markOver: () => void = () => {};
  readonly #pending = new Set<Promise<unknown>>();
  #phase: 'greeting' | 'receiving' | 'finishing' | 'ready' | 'committing' | 'over' = 'greeting';
  #failure: GodwitError | undefined;
  #ending: Promise<void> | undefined;
  #writer: SnapshotWriter | undefined;
  #check: SaveCheck | undefined;
  #round = 1;
  #roundPages: number[];
  readonly #ended = new Set<number>();

  constructor(partial: PartialFile, channels: number) {
    this.#partial = partial;
    this.#channels = Math.max(1, channels);
    this.over = new Promise((resolve) => {
      this.#markOver = resolve;
    });
    this.#roundPages = new Array(this.#channels).fill(0);
  }

  /** Takes a frame, in the tick of the call; resolves with the bytes that went into the file for it. */
  async take(stream: number, frame: Frame, payload: readonly Uint8Array[]): Promise<number> {
    if (frame.type === 'error') {
      void this.end();
      return 0;
    }
    if (frame.type === 'released') return 0;
    this.#mustBeWell();
    const working = this.#work(stream, frame, payload);
    this.#pending.add(working);
    try {
      return await working;
    } catch (error) {
      // A file that was not written as it should be is never committed, whatever the source says later.
      this.#failure ??= GodwitError.wrap(error, 'GODWIT_INTERNAL', 'saving failed');
      throw this.#failure;
    } finally {
      this.#pending.delete(working);
    }
  }

  /** Ends the save; without `go` nothing remains of it. Resolves when nothing is borrowed and the file is closed. */
  end(): Promise<void> {
    this.#ending ??= this.#end();
    return this.#ending;
  }

  async #end(): Promise<void> {
    const committed = this.#phase === 'committing' || this.#phase === 'over';
    if (!committed) this.#phase = 'over';
    this.answers.end();
    this.#markOver();
    while (this.#pending.size > 0) await Promise.allSettled(this.#pending);
    if (committed) await this.#partial.close();
    else await this.#partial.discard();
  }

  abort(reason: GodwitError): void {
    if (this.#phase !== 'committing' && this.#phase !== 'over') this.#failure ??= reason;
    this.answers.fail(reason);
    void this.end();
  }

  #mustBeWell(): void {
    if (this.#failure !== undefined) throw this.#failure;
    if (this.#ending !== undefined) throw new GodwitError('GODWIT_INVALID_STATE', 'the save has ended');
  }

  async #work(stream: number, frame: Frame, payload: readonly Uint8Array[]): Promise<number> {
    switch (frame.type) {
      case 'hello':
        this.#allow(frame, 'greeting');
        this.#begin(frame);
        return 0;
      case 'ping':
        this.answers.put({ type: 'pong', id: frame.id });
        return 0;
      case 'pages':
      case 'zeroPages':
        this.#allow(frame, 'receiving');
        return this.#pages(stream, frame, payload);
      case 'roundEnd':
        this.#allow(frame, 'receiving');
        await this.#endRound(stream, frame.round, frame.pages);
        return 0;
      case 'device':
        this.#allow(frame, 'receiving');
        return this.#written.writeDevice(frame.device, payload);
      case 'switchover':
        this.#allow(frame, 'receiving');
        await this.#finish();
        return 0;
      case 'digests':
        this.#allow(frame, 'ready');
        await this.#checking.compare(frame.block, frame.runs, payload);
        return 0;
      case 'digestsEnd':
        this.#allow(frame, 'ready');
        this.answers.put(await this.#checking.finish());
        return 0;
      case 'go':
        this.#allow(frame, 'ready');
        await this.#commit();
        return 0;
      default:
        throw new GodwitError('GODWIT_PROTOCOL', `a snapshot has no use for a "${frame.type}" frame`);
    }
  }

  #allow(frame: Frame, phase: 'greeting' | 'receiving' | 'ready'): void {
    if (this.#phase === phase) return;
    throw new GodwitError('GODWIT_PROTOCOL', `a "${frame.type}" frame came in phase "${this.#phase}" of saving`);
  }

  #begin(hello: HelloFrame): void {
    const version = Math.min(hello.maximumVersion, PROTOCOL_VERSION.maximum);
    const features = hello.features.filter((feature) => feature === FEATURES.verify);
    this.#writer = new SnapshotWriter(this.#partial, hello);
    if (features.length > 0) this.#check = new SaveCheck(this.#writer, hello.pageSize);
    this.#phase = 'receiving';
    this.answers.put({
      type: 'welcome',
      version,
      features,
      software: SOFTWARE,
      maximumPayload: MOST_PIECE_BYTES,
      incarnation: '1'.repeat(32),
      maximumDeviceState: 2 ** 28,
    });
  }

  async #pages(
    stream: number,
    frame: Extract<Frame, { type: 'pages' | 'zeroPages' }>,
    payload: readonly Uint8Array[],
  ): Promise<number> {
    const channel = this.#channel(stream, frame.round);
    this.#roundPages[channel] = (this.#roundPages[channel] as number) + pageCount(frame.runs);
    if (frame.type === 'pages') return this.#written.writePages(frame.block, frame.runs, payload);
    this.#written.clearPages(frame.block, frame.runs);
    return 0;
  }

  async #endRound(stream: number, round: number, pages: number): Promise<void> {
    const channel = this.#channel(stream, round);
    if (this.#roundPages[channel] !== pages) {
      throw new GodwitError(
        'GODWIT_PROTOCOL',
        `round ${round}: the source sent ${pages} pages on channel ${channel}, ${this.#roundPages[channel]} arrived`,
      );
    }
    this.#ended.add(channel);
    if (this.#ended.size < this.#channels) return;
    const before = Promise.all(this.#pending);
    const total = this.#roundPages.reduce((sum, count) => sum + count, 0);
    // On the disk, and not only in the page cache: the engine predicts the downtime from what a round takes, and the
    // flush that is left for the switchover is short.
    await before;
    await this.#written.sync();
    this.#round++;
    this.#roundPages.fill(0);
    this.#ended.clear();
    this.answers.put({ type: 'roundAck', round, pages: total });
  }

  async #finish(): Promise<void> {
    const start = performance.now();
    if (this.#ended.size > 0 || this.#roundPages.some((pages) => pages > 0)) {
      throw new GodwitError('GODWIT_PROTOCOL', `"switchover" came in the middle of round ${this.#round}`);
    }
    this.#phase = 'finishing';
    await Promise.all(this.#pending);
    await this.#written.finish();
    this.#mustBeWell();
    this.#phase = 'ready';
    this.answers.put({ type: 'ready', attempt: 1, loadMs: performance.now() - start });
  }

  async #commit(): Promise<void> {
    const start = performance.now();
    this.#phase = 'committing';
    await this.#partial.commit();
    this.#phase = 'over';
    this.answers.put({ type: 'running', resumeMs: performance.now() - start, sinceReadyMs: 0 });
  }

  get #written(): SnapshotWriter {
    return this.#writer as SnapshotWriter;
  }

  get #checking(): SaveCheck {
    if (this.#check !== undefined) return this.#check;
    throw new GodwitError('GODWIT_PROTOCOL', '"verify" was not agreed on');
  }

  #channel(stream: number, round: number): number {
    const channel = Math.max(0, stream);
    if (round === this.#round && !this.#ended.has(channel)) return channel;
    throw new GodwitError(
      'GODWIT_PROTOCOL',
      `a frame of round ${round} came on channel ${channel} in round ${this.#round}`,
    );
  }
}

/** One stream of a save, as the source sees it. What a frame does has been done when its `write` resolves. */
class SaveStream implements FrameStream {
  /** Answers, rather than bytes: enough to tell that the save goes on. */
  bytesRead = 0;
  readonly #save: Save;
  readonly #index: number;
  #bytesWritten = 0;

  constructor(save: Save, index: number) {
    this.#save = save;
    this.#index = index;
  }

  /** Bytes that went into the file for this stream's frames. */
  get bytesWritten(): number {
    return this.#bytesWritten;
  }

  async write(frame: Frame, payload: readonly Uint8Array[] = []): Promise<void> {
    // Not `+= await`: writes overlap, and it would add to what the sum was before.
    const bytes = await this.#save.take(this.#index, frame, payload);
    this.#bytesWritten += bytes;
  }

  async read(): Promise<ReceivedFrame | null> {
    // On a page channel a destination says nothing.
    const frame = this.#index === CONTROL ? await this.#save.answers.take() : await this.#save.over.then(() => null);
    if (frame === null) return null;
    this.bytesRead++;
    return { frame, payloadBytes: 0 };
  }

  async readPayload(): Promise<void> {}

  async skipPayload(): Promise<void> {}

  async close(): Promise<void> {
    // The control stream is the migration; a page channel ends with it.
    if (this.#index === CONTROL) await this.#save.end();
  }

  abort(reason: GodwitError): void {
    this.#save.abort(reason);
  }

  settled(): Promise<void> {
    return this.#save.end();
  }
}
