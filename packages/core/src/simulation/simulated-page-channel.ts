import { PageBoard } from '../destination/page-board.js';
import { GodwitError } from '../errors.js';
import type { RemoteReading } from '../link/page-stream.js';
import type { DeviceFrame, Frame } from '../protocol/frame.js';
import { noTotals, type PageBatch, type PageChannel } from '../source/page-channel.js';
import type { PageKinds } from './page-kinds.js';
import type { CountedPages, Parcel } from './parcel.js';
import type { SimulatedMissing } from './simulated-faults.js';
import type { SimulatedNetwork } from './simulated-network.js';

/** Bytes on the wire for each run of a frame: two numbers, of which the first is often large. */
const RUN_BYTES = 8;

/** The most bytes of pages in a frame of the real wire format, and the bytes of its framing. */
const WIRE_FRAME = { pageBytes: 2 ** 20, framing: 32 };

/** A batch is no larger than this, in bytes of pages: the engine cuts rounds into chunks of 64 MiB, or of 64 pages. */
const MOST_BYTES = 2 ** 32;

export interface ChannelParts {
  /** About how long a batch takes on the wire. */
  readonly batchMs: number;
  readonly stream: {
    readonly bytesWritten: number;
    write(frame: Frame, payload?: readonly Uint8Array[]): Promise<void>;
  };
  /** Carries pages; `channelMs` is the time in which the channel alone could send them. */
  readonly carry: (bytes: number, channelMs: number, pages: CountedPages) => Promise<void>;
  readonly signal: AbortSignal;
}

/** The source's end of a simulated page channel: it counts the pages of batches of any size, and never reads a page. */
export class SimulatedPageChannel implements PageChannel {
  readonly depth = 2;
  readonly ownThread = true;
  readonly batchBytes: number;
  readonly totals = noTotals();
  readonly #pageSize: number;
  readonly #kinds: PageKinds;
  readonly #network: SimulatedNetwork;
  readonly #parts: ChannelParts;
  readonly #scanBytesPerSecond: number;
  #scannedAt = 0;
  /** Resolves when the last batch was scanned. */
  #scanned: Promise<void> = Promise.resolve();
  #roundPages = 0;
  #inFlight = 0;

  constructor(pageSize: number, kinds: PageKinds, network: SimulatedNetwork, parts: ChannelParts) {
    this.#pageSize = pageSize;
    this.#kinds = kinds;
    this.#network = network;
    this.#parts = parts;
    this.#scanBytesPerSecond = kinds.scanBytesPerSecond;
    const bytesPerSecond = Math.min(network.bytesPerSecond, network.channelBytesPerSecond);
    this.batchBytes = Math.min(MOST_BYTES, (bytesPerSecond * parts.batchMs) / 1000);
  }

  get wireBytes(): number {
    return this.#parts.stream.bytesWritten + this.#inFlight;
  }

  async send({ round, blockIndex: block, runs, holes, whole = false }: PageBatch): Promise<void> {
    const kinds = this.#kinds.split(round, runs.pageCount, whole);
    const pageBytes = runs.pageCount * this.#pageSize;
    const framing = (1 + Math.ceil(pageBytes / WIRE_FRAME.pageBytes)) * WIRE_FRAME.framing;
    const bytes = kinds.payloadBytes + framing + (runs.length + holes.length) * RUN_BYTES;
    const pages = { ...kinds, round, block, runs: runs.toPairs(), holes: holes.toPairs(), holePages: holes.pageCount };
    this.#roundPages += runs.pageCount + holes.pageCount;
    const { totals } = this;
    totals.raw += kinds.raw;
    totals.zero += kinds.zero;
    totals.delta += kinds.delta;
    totals.compressed += kinds.compressed;
    totals.hole += holes.pageCount;
    totals.savedBytes += (runs.pageCount - kinds.zero) * this.#pageSize - kinds.payloadBytes;
    this.#scanned = this.#scan(pageBytes);
    await this.#scanned;
    this.#inFlight += bytes;
    try {
      await this.#parts.carry(bytes, (bytes / this.#network.channelBytesPerSecond) * 1000, pages);
    } finally {
      this.#inFlight -= bytes;
    }
  }

  async sendDevice(frame: DeviceFrame, bytes: Uint8Array): Promise<void> {
    this.#inFlight += bytes.byteLength;
    try {
      await this.#parts.stream.write(frame, [bytes]);
    } finally {
      this.#inFlight -= bytes.byteLength;
    }
  }

  async endRound(round: number): Promise<void> {
    const pages = this.#roundPages;
    this.#roundPages = 0;
    // The end of the round must not overtake pages that are still being scanned.
    await this.#scanned;
    await this.#parts.stream.write({ type: 'roundEnd', round, pages });
  }

  /** Simulates scanning on a thread of its own: while one batch is scanned, the one before it is sent. */
  async #scan(bytes: number): Promise<void> {
    const ms = (bytes / this.#scanBytesPerSecond) * 1000;
    if (ms === 0) return;
    const { clock } = this.#network;
    this.#scannedAt = Math.max(this.#scannedAt, clock.now()) + ms;
    this.totals.scanMs += ms;
    await clock.sleep(this.#scannedAt - clock.now(), this.#parts.signal);
  }
}

/**
 * The destination's end of a simulated page channel: it updates the board as a `PageWriter` does, but writes no memory. Reads until the
 * channel ends or the board is stopped.
 */
export async function receiveCountedPages(
  stream: { take(): Promise<Parcel | null> },
  { channel, memory, board: buffers, onRoundEnd, onDevice }: RemoteReading,
  missing: () => SimulatedMissing | undefined,
): Promise<void> {
  const board = PageBoard.join(memory, buffers);
  let roundPages = 0;
  for (;;) {
    const parcel = await stream.take();
    if (board.stopped) return;
    if (parcel === null) {
      if (board.sealed) return;
      throw new GodwitError(
        'GODWIT_LINK_LOST',
        `the source closed page channel ${channel} before the end of the migration`,
      );
    }
    if ('pages' in parcel) {
      const { pages } = parcel;
      roundPages += arrived(board, channel, pages);
      if (board.missing) for (const runs of [pages.runs, pages.holes]) missing()?.came(pages.block, runs);
      continue;
    }
    const { frame } = parcel;
    if (frame.type === 'device' && onDevice !== undefined) {
      onDevice(frame, new Uint8Array(parcel.payloadBytes));
      continue;
    }
    if (frame.type !== 'roundEnd' || frame.pages !== roundPages || frame.round !== board.round) {
      throw new GodwitError(
        'GODWIT_PROTOCOL',
        `page channel ${channel} has ${roundPages} pages of round ${board.round}, and then got ${JSON.stringify(frame)}`,
      );
    }
    roundPages = 0;
    await onRoundEnd(frame.round, frame.pages);
  }
}

function arrived(board: PageBoard, channel: number, pages: CountedPages): number {
  if (!board.admit() || pages.round !== board.round) {
    throw new GodwitError(
      'GODWIT_PROTOCOL',
      `pages of round ${pages.round} came in round ${board.round}, or after its end`,
    );
  }
  const received = board.received.at(pages.block);
  for (const runs of [pages.runs, pages.holes]) {
    for (let i = 0; i < runs.length; i += 2) received.setRange(runs[i] as number, runs[i + 1] as number);
  }
  board.count(channel, 'raw', pages.raw);
  board.count(channel, 'zero', pages.zero + pages.holePages);
  board.count(channel, 'delta', pages.delta);
  board.count(channel, 'compressed', pages.compressed);
  return pages.raw + pages.zero + pages.delta + pages.compressed + pages.holePages;
}
