import { randomBytes } from 'node:crypto';
import {
  type DeviceFrame,
  type DirtyBitmaps,
  FEATURES,
  type Frame,
  GodwitError,
  type GoFrame,
  type HelloFrame,
  type LinkConnector,
  type MigrationLink,
  PROTOCOL_VERSION,
  type SwitchoverFrame,
  type ThreadRecipe,
} from '@godwit/core';
import { SOFTWARE } from '@godwit/core/pages';
import { LinkPhases } from '../recording/link-phases.js';
import { cancelled, throwIfCancelled } from '../stream/cancellation.js';
import { FrameMailbox } from './frame-mailbox.js';
import { byteCount, pageCount } from './page-segments.js';
import { PartialFile } from './partial-file.js';
import { SaveCheck } from './save-check.js';
import { CONTROL, SaveStream, type SaveTarget } from './save-stream.js';
import { SavedDevices } from './saved-devices.js';
import { MOST_PIECE_BYTES } from './snapshot-metadata.js';
import { MOST_DEVICE_STATE, SnapshotWriter } from './snapshot-writer.js';

/** The default number of page channels, each with a write under way: as many as Node's thread pool has threads. */
const WRITES_AT_ONCE = 4;

/** Makes a connector that saves to `path`: the destination of the migration is this file. */
export function saveTo(path: string): LinkConnector {
  return {
    pageChannelsFor: () => WRITES_AT_ONCE,
    async connect({ pageChannels, connection }, signal): Promise<MigrationLink> {
      throwIfCancelled(signal, `saving to ${path}`);
      if (connection > 1) {
        throw new GodwitError(
          'GODWIT_CONNECT_FAILED',
          `a save to ${path} that has ended is not taken up again; look at the error that it ended with, and save anew`,
          { retry: false },
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
        pageTarget: () => save.pageTarget(),
        keepWorkingSet: (pages) => save.keepWorkingSet(pages),
      };
    },
  };
}

/**
 * The destination of a migration to a file. The file votes and commits as in a two-phase commit:
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
 * Until `go` the source may resume, and does on any failure: until then no new file may have the snapshot's name, and
 * an older snapshot keeps it. After `go` the source never resumes by itself: by then no step may be left that can
 * reasonably fail. A failure before `go` removes the file; after `go` the file is the guest, and stays.
 *
 * A file is always prepared, and never goes back: it does not accept the feature `back`.
 */
class Save implements SaveTarget {
  readonly answers = new FrameMailbox();
  readonly over: Promise<void>;
  readonly #partial: PartialFile;
  readonly #channels: number;
  readonly #incarnation = randomBytes(16).toString('hex');
  readonly #phases = new LinkPhases();
  #markOver: () => void = () => {};
  readonly #pending = new Set<Promise<unknown>>();
  #failure: GodwitError | undefined;
  #ending: Promise<void> | undefined;
  #writer: SnapshotWriter | undefined;
  #devices: SavedDevices | undefined;
  #check: SaveCheck | undefined;
  /** For each device a promise that settles when the pieces of pre-copy that have come so far are in the file. */
  readonly #taken = new Map<number, Promise<unknown>>();
  #round = 1;
  #roundPages: number[];
  readonly #ended = new Set<number>();
  #readyAt = 0;
  /** True once `go` has come: the file is the guest. */
  #gone = false;

  constructor(partial: PartialFile, channels: number) {
    this.#partial = partial;
    this.#channels = Math.max(1, channels);
    this.over = new Promise((resolve) => {
      this.#markOver = resolve;
    });
    this.#roundPages = new Array(this.#channels).fill(0);
  }

  /** Hands the pages to another thread: see `MigrationLink.pageTarget`. */
  pageTarget(): ThreadRecipe {
    return this.#written.writer.toOtherThread();
  }

  /** Notes the guest's working set: see `MigrationLink.keepWorkingSet`. */
  keepWorkingSet(pages: DirtyBitmaps): void {
    this.#written.writer.keepWorkingSet(pages);
  }

  /** Takes a frame, in the tick of the call; resolves with the bytes that went into the file for it. */
  async take(stream: number, frame: Frame, payload: readonly Uint8Array[]): Promise<number> {
    if (frame.type === 'error') {
      void this.end();
      return 0;
    }
    if (frame.type === 'released' && this.#gone) return 0;
    this.#mustBeWell();
    const working = this.#work(stream, frame, payload);
    this.#pending.add(working);
    try {
      return await working;
    } catch (error) {
      // A file that was not written completely is never committed, whatever the source sends later.
      this.#failure ??= GodwitError.wrap(error, 'GODWIT_INTERNAL', 'saving failed');
      throw this.#failure;
    } finally {
      this.#pending.delete(working);
    }
  }

  /** Ends the save; without `go` its file is removed. Resolves when nothing is borrowed and the file is closed. */
  end(): Promise<void> {
    this.#ending ??= this.#end();
    return this.#ending;
  }

  async #end(): Promise<void> {
    const committed = this.#gone;
    this.answers.end();
    this.#markOver();
    while (this.#pending.size > 0) await Promise.allSettled(this.#pending);
    if (committed) await this.#partial.close();
    else await this.#partial.discard();
  }

  abort(reason: GodwitError): void {
    if (!this.#gone) this.#failure ??= reason;
    this.answers.fail(reason);
    void this.end();
  }

  #mustBeWell(): void {
    if (this.#failure !== undefined) throw this.#failure;
    if (this.#ending !== undefined) throw new GodwitError('GODWIT_INVALID_STATE', 'the save has ended');
  }

  async #work(stream: number, frame: Frame, payload: readonly Uint8Array[]): Promise<number> {
    const objection = this.#phases.take(frame, 'source', stream - CONTROL);
    if (objection !== undefined) throw new GodwitError('GODWIT_PROTOCOL', `saving to a file: ${objection}`);
    switch (frame.type) {
      case 'hello':
        this.#begin(frame);
        return 0;
      case 'ping':
        this.#say({ type: 'pong', id: frame.id });
        return 0;
      case 'pong':
        return 0;
      case 'pages':
      case 'zeroPages':
        return this.#pages(stream, frame, payload);
      case 'roundEnd':
        await this.#endRound(stream, frame.round, frame.pages);
        return 0;
      case 'device':
        return this.#device(frame, payload);
      case 'prepare':
        this.#written.devices.admitPrepare(frame);
        this.#say({ ...frame, type: 'prepared', incarnation: this.#incarnation });
        return 0;
      case 'switchover':
        await this.#finish(frame);
        return 0;
      case 'digests':
        await this.#checking.compare(frame.block, frame.runs, payload);
        return 0;
      case 'digestsEnd':
        this.#say(await this.#checking.finish());
        return 0;
      case 'go':
        await this.#commit(frame);
        return 0;
      default:
        throw new GodwitError('GODWIT_PROTOCOL', `a snapshot takes no "${frame.type}" frame: that was not agreed on`);
    }
  }

  #say(frame: Frame): void {
    this.#phases.take(frame, 'destination');
    this.answers.put(frame);
  }

  #begin(hello: HelloFrame): void {
    const version = Math.min(hello.maximumVersion, PROTOCOL_VERSION.maximum);
    const features = hello.features.filter((feature) => feature === FEATURES.verify);
    if (hello.stage !== 'running' && hello.stage !== 'dryRun') {
      throw new GodwitError(
        'GODWIT_UNKNOWN_MIGRATION',
        `a file knows no migration that began before; this one is "${hello.stage}"`,
      );
    }
    const shared = hello.blocks.find((block) => block.shared);
    if (shared !== undefined) {
      throw new GodwitError(
        'GODWIT_SHARED_MEMORY',
        `RAM block "${shared.id}" is declared shared: its content would not be in the snapshot. Save the VM without declaring it shared`,
      );
    }
    // An identity names memory of this host, and would have no meaning in the file.
    const kept = { ...hello, blocks: hello.blocks.map((block) => ({ ...block, identity: '' })) };
    this.#writer = new SnapshotWriter(this.#partial, kept);
    this.#devices = new SavedDevices(kept);
    if (features.length > 0) this.#check = new SaveCheck(this.#writer, hello.pageSize);
    this.#say({
      type: 'welcome',
      version,
      features,
      software: SOFTWARE,
      maximumPayload: MOST_PIECE_BYTES,
      incarnation: this.#incarnation,
      maximumDeviceState: MOST_DEVICE_STATE,
    });
  }

  async #pages(
    stream: number,
    frame: Extract<Frame, { type: 'pages' | 'zeroPages' }>,
    payload: readonly Uint8Array[],
  ): Promise<number> {
    const { writer } = this.#written;
    const channel = this.#channel(stream, frame.round);
    this.#roundPages[channel] = (this.#roundPages[channel] as number) + pageCount(frame.runs);
    if (frame.type === 'pages') return writer.writePages(frame.block, frame.runs, payload);
    writer.clearPages(frame.block, frame.runs);
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
    // The pages are flushed to the disk here, and not only in the page cache: the engine predicts the downtime from the
    // time of a round, and the flush in the switchover is short.
    await before;
    await this.#written.writer.sync();
    this.#round++;
    this.#roundPages.fill(0);
    this.#ended.clear();
    this.#say({ type: 'roundAck', round, pages: total });
  }

  async #device(frame: DeviceFrame, payload: readonly Uint8Array[]): Promise<number> {
    const { writer, devices } = this.#written;
    const { device, sequence } = frame;
    devices.admit(frame, byteCount(payload));
    const writing = writer.writeDevice(device, payload);
    if (frame.attempt === 0) {
      // Writes overlap: a piece counts as taken once the pieces before it are in the file too.
      const taken = Promise.all([this.#taken.get(device), writing]);
      this.#taken.set(device, taken);
      await taken;
      this.#say({ type: 'loaded', device, sequence: sequence + 1 });
    }
    return writing;
  }

  async #finish({ round, attempt, runState }: SwitchoverFrame): Promise<void> {
    const { writer, devices } = this.#written;
    const start = performance.now();
    if (this.#ended.size > 0 || this.#roundPages.some((pages) => pages > 0)) {
      throw new GodwitError('GODWIT_PROTOCOL', `"switchover" came in the middle of round ${this.#round}`);
    }
    if (round !== this.#round - 1) {
      throw new GodwitError('GODWIT_PROTOCOL', `"switchover" of round ${round} came after round ${this.#round - 1}`);
    }
    devices.admitAttempt(attempt);
    devices.mustBeWhole();
    await Promise.all(this.#pending);
    await writer.finish(runState);
    this.#mustBeWell();
    this.#readyAt = performance.now();
    this.#say({ type: 'ready', attempt, loadMs: this.#readyAt - start });
  }

  async #commit({ attempt }: GoFrame): Promise<void> {
    this.#written.devices.admitAttempt(attempt);
    const start = performance.now();
    this.#gone = true;
    await this.#partial.commit();
    const end = performance.now();
    this.#say({ type: 'running', resumeMs: end - start, sinceReadyMs: end - this.#readyAt });
  }

  /** The parts that exist from the hello on; every other frame comes after the hello. */
  get #written(): { readonly writer: SnapshotWriter; readonly devices: SavedDevices } {
    return { writer: this.#writer as SnapshotWriter, devices: this.#devices as SavedDevices };
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
