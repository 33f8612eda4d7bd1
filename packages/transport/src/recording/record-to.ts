import {
  checkOptions,
  type Frame,
  type FrameStream,
  GodwitError,
  type IncomingLink,
  type LinkConnector,
  type LinkListener,
  type MigrationLink,
} from '@godwit/core';
import { SOFTWARE } from '@godwit/core/pages';
import { hasPayload, packHeader } from '../framing/frame-codec.js';
import { frameHead } from '../framing/frame-head.js';
import { CopyPool, type PayloadCopy } from './copy-pool.js';
import { RecordedStream, type Tape } from './recorded-stream.js';
import { RecordingFile } from './recording-file.js';
import { packRecordingFrame, RECORDING_VERSION, type RecordedTrack, type Sender } from './recording-format.js';

/** Options of `recordTo`. */
export interface RecordOptions {
  /**
   * Called once when the recording fails (a full disk, say); the migration then goes on without it. Without this
   * callback the migration fails, and the guest runs on at the source.
   */
  readonly onFailure?: (error: GodwitError) => void;
}

/** The contents of a recording that was closed. */
export interface RecordingSummary {
  readonly path: string;
  /** Bytes of the file. */
  readonly bytes: number;
  /** Frames of the migration in it. */
  readonly frames: number;
}

/** A file into which migrations are recorded. */
export interface Recording {
  readonly path: string;
  /** The reason why the recording is incomplete: `GODWIT_RECORDING_FAILED`. `undefined` without a failure. */
  readonly failure: GodwitError | undefined;
  /** The connector for `migrate`, on the source's side. Reconnections are recorded too. */
  connector(connector: LinkConnector): LinkConnector;
  /** The listener for `receive`, on the destination's side. */
  listener(listener: LinkListener): LinkListener;
  /** Ends the file. Call it when the migration is over; later frames are not recorded. Rejects with `failure`. */
  close(): Promise<RecordingSummary>;
}

/**
 * Records whole migrations into a new file, which `readRecording`, the command `godwit inspect` and any MessagePack
 * decoder read (`docs/wire-format.md`): every frame of every stream in both directions, byte for byte as it was sent, and
 * how each stream ended.
 *
 * Guest memory changes while it is written. So each payload is copied once, and the copy is both recorded and sent. A
 * disk that is slower than the link slows the migration down, its downtime included, until `go`.
 *
 * A failure of the recording never harms the guest: it fails the migration, or is reported and the migration goes on
 * (`onFailure`); from `ready` on, shortly before the hand-over, it is only reported.
 *
 * Page channels on worker threads are refused with `GODWIT_UNSUPPORTED`, since their pages never come to this thread.
 *
 * The file is readable for its owner only, since it holds the guest's memory. Fails with `GODWIT_RECORDING_FAILED` when it
 * exists already or cannot be made.
 *
 * @example
 * const recording = await recordTo('migration.godwit');
 * await migrate(vm, recording.connector(connectTo(tcp({ host, port })))).result;
 * await recording.close(); // godwit inspect migration.godwit
 */
export async function recordTo(path: string, options: RecordOptions = {}): Promise<Recording> {
  checkOptions<RecordOptions>('recordTo', options, { onFailure: true });
  return FileRecording.create(path, options);
}

class FileRecording implements Recording, Tape {
  readonly #file: RecordingFile;
  readonly #goesOn: boolean;
  readonly #pool = new CopyPool();
  readonly #start = performance.now();
  #links = 0;
  #frames = 0;
  /** True once `ready` was sent: the peer may act on it, so that failing would not be safe any more. */
  #handingOver = false;
  /** True once `go` was sent: from then on the guest does not wait for the disk. */
  #handedOver = false;
  #closed = false;
  #closing: Promise<RecordingSummary> | undefined;

  static async create(path: string, options: RecordOptions): Promise<FileRecording> {
    const { onFailure } = options;
    const file = await RecordingFile.create(path, (error) => onFailure?.(error));
    return new FileRecording(file, onFailure !== undefined);
  }

  private constructor(file: RecordingFile, goesOn: boolean) {
    this.#file = file;
    this.#goesOn = goesOn;
    const head = { version: RECORDING_VERSION, software: SOFTWARE, startedAt: Date.now() };
    file.append([packRecordingFrame({ type: 'recording', ...head })]);
  }

  get path(): string {
    return this.#file.path;
  }

  get failure(): GodwitError | undefined {
    return this.#file.failure;
  }

  connector(connector: LinkConnector): LinkConnector {
    return {
      connect: async (request, signal): Promise<MigrationLink> => {
        this.check();
        const made = await connector.connect(request, signal);
        const elsewhere = made.pageChannels.some((channel) => channel.sendPages !== undefined);
        if (elsewhere) throw notHere([made.control, ...made.pageChannels]);
        const link = this.#newLink('source', made.peer);
        return {
          ...made,
          control: this.#stream(made.control, link, 0, 'source'),
          pageChannels: made.pageChannels.map((channel, i) => this.#stream(channel, link, i + 1, 'source')),
        };
      },
    };
  }

  listener(listener: LinkListener): LinkListener {
    return {
      accept: async (signal): Promise<IncomingLink> => {
        const incoming = await listener.accept(signal);
        const link = this.#newLink('destination', incoming.peer);
        return {
          control: this.#stream(incoming.control, link, 0, 'destination'),
          peer: incoming.peer,
          pageChannels: async (...request) => {
            const channels = await incoming.pageChannels(...request);
            if (channels.some((channel) => channel.receivePages !== undefined)) throw notHere(channels);
            return channels.map((channel, i) => this.#stream(channel, link, i + 1, 'destination'));
          },
        };
      },
      close: () => listener.close(),
    };
  }

  close(): Promise<RecordingSummary> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  // The part of the recording that its streams use.

  copy(byteLength: number, holders: number): PayloadCopy {
    return this.#pool.take(byteLength, holders);
  }

  record(track: RecordedTrack, frame: Frame, copy: PayloadCopy | undefined): void {
    if (copy !== undefined && !hasPayload(frame)) {
      throw new GodwitError('GODWIT_INVALID_ARGUMENT', `a ${frame.type} frame has no payload`);
    }
    const head = frameHead(packHeader(frame), hasPayload(frame) ? (copy?.bytes.length ?? 0) : undefined);
    if (frame.type === 'ready') this.#handingOver = true;
    if (frame.type === 'go') this.#handedOver = true;
    if (this.#closed) {
      copy?.release();
      return;
    }
    const mark = packRecordingFrame({ type: 'recorded', ...track, atMicros: this.#now() });
    this.#file.append(copy === undefined ? [mark, head] : [mark, head, copy.bytes], (written) => {
      copy?.release();
      if (written) this.#frames++;
    });
  }

  recordEnd(track: RecordedTrack, error: GodwitError | undefined): void {
    if (this.#closed) return;
    const end = { ...track, atMicros: this.#now(), error };
    this.#file.append([packRecordingFrame({ type: 'streamEnd', ...end })]);
  }

  check(): void {
    if (this.failure !== undefined && !this.#goesOn && !this.#handingOver && !this.#closed) throw this.failure;
  }

  get behind(): boolean {
    return this.#file.full && !this.#handedOver && !this.#closed;
  }

  caughtUp(then: () => void): () => void {
    return this.#file.drained(then);
  }

  #newLink(side: Sender, peer: string): number {
    const link = this.#links++;
    if (!this.#closed) {
      this.#file.append([packRecordingFrame({ type: 'link', link, side, peer, atMicros: this.#now() })]);
    }
    return link;
  }

  #stream(stream: FrameStream, link: number, index: number, sender: Sender): FrameStream {
    return new RecordedStream(stream, this, { link, stream: index, sender });
  }

  async #close(): Promise<RecordingSummary> {
    this.#closed = true;
    await this.#file.close(() =>
      packRecordingFrame({
        type: 'recordingEnd',
        atMicros: this.#now(),
        frames: this.#frames,
        error: this.failure,
      }),
    );
    if (this.failure !== undefined) throw this.failure;
    return { path: this.path, bytes: this.#file.bytes, frames: this.#frames };
  }

  /** Microseconds since the recording began. */
  #now(): number {
    return Math.round((performance.now() - this.#start) * 1000);
  }
}

/** Drops the streams and returns the error: pages that never come to this thread cannot be recorded. */
function notHere(streams: readonly FrameStream[]): GodwitError {
  const error = new GodwitError(
    'GODWIT_UNSUPPORTED',
    'page channels on worker threads cannot be recorded: their pages never come to this thread; record without workers',
  );
  for (const stream of streams) stream.abort(error);
  return error;
}
