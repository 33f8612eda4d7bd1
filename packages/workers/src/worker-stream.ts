import {
  type DeviceFrame,
  GodwitError,
  type PageBatch,
  type PageChannel,
  type PageStream,
  type ReceivedFrame,
  type RemoteAnswering,
  type RemoteReading,
  type RemoteSending,
  type ThreadRecipe,
} from '@godwit/core';
import { closeFd, duplicateFd, resetOnClose, SocketNumbers, shutdownSocket } from '@godwit/linux/unstable';
import { addressOf } from '@godwit/linux/unstable/libc';
import type { DetachedStream } from '@godwit/transport';
import { attachmentOf } from './attachable-memory.js';
import { ChannelCounters } from './channel-counters.js';
import type { ChannelOrder, ChannelReport } from './channel-messages.js';
import type { ChannelThread } from './channel-threads.js';
import type { UrgentLink } from './missing/link-pages.js';
import type { ServedMemoryParts } from './missing/missing-messages.js';

/**
 * Pages in one order to a thread, in bytes: at least, at first, and at most. Small orders take processor time from the copying, since
 * each order and each answer wakes a thread.
 */
const BATCH_BYTES = { least: 2 ** 20, first: 4 * 2 ** 20, most: 16 * 2 ** 20 } as const;

/**
 * Orders grow while they take less than the first of these, and shrink when they take more than the second, in milliseconds: on a slow
 * link pages must be sent soon after they were ordered, and progress must be reported more often than every few seconds.
 */
const ORDER_MS = { least: 6, most: 25 } as const;

/**
 * The number of batches that are queued for a thread, which must have work while the main thread does other work for some milliseconds.
 */
const DEPTH = 4;

/** How long `close` waits for the peer to end its direction before the stream is dropped, in milliseconds. */
const LINGER_MS = 5_000;

/** How long a thread that was told to stop may take before it is terminated, in milliseconds. */
const STOP_MS = 500;

interface Waiting {
  /** An upper bound of the payload bytes that the order puts on the wire: zero pages have none. */
  readonly bytes: number;
  /** Called with the number of pages that the thread has taken for this order. */
  readonly onTaken?: (pages: number) => void;
  /** The device state whose bytes the thread reads; the reference keeps them alive until the thread has answered. */
  readonly keep?: Uint8Array;
  readonly resolve: () => void;
  readonly reject: (error: GodwitError) => void;
}

/**
 * A page channel whose socket a worker thread reads and writes. This object, on the main thread, gives the thread its orders and owns the
 * descriptor. The descriptor is closed only when the thread has ended: until then the kernel must not give its number to another socket.
 */
export class WorkerStream implements PageStream {
  readonly checksums: boolean;
  readonly #peer: string;
  readonly #index: number;
  readonly #fd: number;
  /** The state of the stream when it was moved here. */
  readonly #begun: Pick<DetachedStream, 'unread' | 'checksums'>;
  readonly #thread: ChannelThread;
  readonly #over: Promise<void>;
  readonly #received = new SharedArrayBuffer(BigInt64Array.BYTES_PER_ELEMENT);
  readonly #carriedBefore: { readonly written: number; readonly read: number };
  /** Orders that were not answered yet, by their number. */
  readonly #waiting = new Map<number, Waiting>();
  #orders = 0;
  readonly #counters = new ChannelCounters();
  #onRearmFailed: RemoteSending['onRearmFailed'] | undefined;
  #inFlight = 0;
  #batchBytes: number = BATCH_BYTES.first;
  /** The time at which the thread last finished an order, or was given one while it had none. Milliseconds. */
  #paceAt = 0;
  #onRoundEnd: RemoteReading['onRoundEnd'] | undefined;
  #onDevice: RemoteReading['onDevice'];
  /** Number of pieces of device state that the thread has reported and this thread has not yet taken. */
  readonly #pieces = new Int32Array(new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT));
  #reading = false;
  #readToEnd = false;
  #failure: GodwitError | undefined;
  #closing: Promise<void> | undefined;
  #ended = false;

  /** Takes ownership of the stream's descriptor and of a thread that has received no order yet. */
  constructor(stream: DetachedStream, thread: ChannelThread, peer: string, index: number) {
    this.#peer = peer;
    this.#index = index;
    this.#fd = stream.fd;
    this.#carriedBefore = { written: stream.bytesWritten, read: stream.bytesRead };
    this.#thread = thread;
    const { worker } = thread;
    const { fd, unread, checksums } = stream;
    this.#begun = { unread, checksums };
    this.checksums = checksums.out !== undefined || checksums.in !== undefined;
    this.#order({
      type: 'connect',
      connection: { fd, peer, unread, checksums, received: this.#received, counters: this.#counters.storage },
    });
    worker.on('message', (message: ChannelReport) => this.#handle(message));
    worker.on('error', (error) => {
      const message = `the worker thread of page channel ${index} failed: ${String(error)}`;
      this.#failure ??= new GodwitError('GODWIT_LINK_LOST', message, { cause: error });
    });
    this.#over = new Promise((resolve) => {
      worker.once('exit', (code) => {
        this.#exited(code);
        resolve();
      });
    });
  }

  get ready(): Promise<void> {
    return this.#thread.ready;
  }

  get bytesWritten(): number {
    return this.#carriedBefore.written + this.#counters.wireBytes;
  }

  get bytesRead(): number {
    return this.#carriedBefore.read + Number(Atomics.load(new BigInt64Array(this.#received), 0));
  }

  sendPages(sending: RemoteSending): PageChannel {
    const { memory, encodings, maximumPayload, queue, rearm = [] } = sending;
    this.#onRearmFailed = sending.onRearmFailed;
    this.#order({ type: 'send', memory: attachmentOf(memory), encodings, maximumPayload, queue, rearm });
    const encoded = encodings.cache !== undefined || encodings.recipes.length > 0;
    const stream = this;
    return {
      // With encodings the queue is shorter, since encoding a batch takes as much memory again.
      ...(encoded ? {} : { depth: DEPTH }),
      get batchBytes() {
        return encoded ? 0 : stream.#batchBytes;
      },
      ownThread: true,
      get totals() {
        return stream.#counters.totals;
      },
      get wireBytes() {
        return stream.bytesWritten + stream.#inFlight;
      },
      send: (batch) => this.#send(batch, memory.pageSize),
      takePages: ({ round, pass, whole = false }, onTaken) =>
        this.#ask((id) => ({ type: 'take', id, round, pass, whole }), 0, { onTaken }),
      sendDevice: (frame, bytes) => this.#sendDevice(frame, bytes),
      endRound: (round) => this.#ask((id) => ({ type: 'end round', id, round }), 0),
    };
  }

  async receivePages({ channel, memory, board, encodings, onRoundEnd, onDevice }: RemoteReading): Promise<void> {
    const pieces = onDevice === undefined ? undefined : this.#pieces.buffer;
    const order: ChannelOrder = { type: 'receive', channel, memory: attachmentOf(memory), board, encodings, pieces };
    this.#onRoundEnd = onRoundEnd;
    this.#onDevice = onDevice;
    this.#reading = true;
    this.#order(order);
    await this.#over;
    if (!this.#readToEnd) throw this.#failure;
  }

  putMissing({ options }: ThreadRecipe): void {
    this.#order({ type: 'missing', parts: options as ServedMemoryParts });
  }

  async answerRequests({ memory, queue, open }: RemoteAnswering): Promise<void> {
    this.#reading = true;
    this.#order({ type: 'answer', memory: attachmentOf(memory), queue, open: open as SharedArrayBuffer });
    await this.#over;
    if (!this.#readToEnd) throw this.#failure;
  }

  /**
   * Shares the connection with a thread that asks for pages. That thread closes `fd`, and nothing else reads or writes the socket
   * meanwhile.
   */
  share(): UrgentLink {
    const { unread, checksums } = this.#begun;
    return { fd: duplicateFd(this.#fd), peer: this.#peer, unread, checksums, received: this.#received };
  }

  write(): Promise<void> {
    return Promise.reject(this.#elsewhere());
  }

  read(): Promise<ReceivedFrame | null> {
    return Promise.reject(this.#elsewhere());
  }

  readPayload(): Promise<void> {
    return Promise.reject(this.#elsewhere());
  }

  skipPayload(): Promise<void> {
    return Promise.reject(this.#elsewhere());
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  abort(reason: GodwitError): void {
    if (this.#ended) return;
    this.#failure ??= reason;
    resetOnClose(this.#fd);
    // The shutdown ends the call in which the thread blocks, after which the thread does not touch guest memory.
    shutdownSocket(this.#fd, SocketNumbers.SHUT_RDWR);
    this.#order({ type: 'close' });
    const { worker, ready } = this.#thread;
    const timer = setTimeout(() => void ready.then(() => worker.terminate()), STOP_MS);
    void this.#over.then(() => clearTimeout(timer));
  }

  /** Resolves when the thread has ended and the descriptor is closed. */
  settled(): Promise<void> {
    return this.#over;
  }

  async #close(): Promise<void> {
    if (this.#ended) return;
    // A thread that reads receives no orders, and ends by itself at the end of the peer's direction.
    if (this.#reading) shutdownSocket(this.#fd, SocketNumbers.SHUT_WR);
    else this.#order({ type: 'close' });
    const timer = setTimeout(() => {
      const message = `${this.#peer} did not end page channel ${this.#index} within ${LINGER_MS} ms`;
      this.abort(new GodwitError('GODWIT_TIMEOUT', message));
    }, LINGER_MS);
    await this.#over;
    clearTimeout(timer);
  }

  #send(batch: PageBatch, pageSize: number): Promise<void> {
    const { round, blockIndex: block, limit, whole = false } = batch;
    const runs = batch.runs.toPairs();
    const holes = batch.holes.toPairs();
    return this.#ask(
      (id) => ({ type: 'batch', id, round, block, runs, holes, limit, whole }),
      batch.runs.pageCount * pageSize,
    );
  }

  /**
   * Orders the thread to send device state. The order has the address of the bytes; `#waiting` keeps them alive until the thread has
   * answered.
   */
  #sendDevice(frame: DeviceFrame, bytes: Uint8Array): Promise<void> {
    const { byteLength } = bytes;
    // A small array lies in V8's heap, where it may be moved, until its buffer is asked for.
    const address = bytes.buffer.byteLength > 0 && byteLength > 0 ? addressOf(bytes) : 0n;
    return this.#ask((id) => ({ type: 'device', id, frame, address, byteLength }), byteLength, { keep: bytes });
  }

  #ask(
    order: (id: number) => ChannelOrder,
    bytes: number,
    more: Pick<Waiting, 'onTaken' | 'keep'> = {},
  ): Promise<void> {
    return new Promise((resolve, reject) => {
      if (this.#failure !== undefined && this.#ended) {
        reject(this.#failure);
        return;
      }
      if (this.#waiting.size === 0) this.#paceAt = performance.now();
      this.#inFlight += bytes;
      const id = this.#orders++;
      this.#waiting.set(id, { ...more, bytes, resolve, reject });
      this.#order(order(id));
    });
  }

  #order(order: ChannelOrder): void {
    this.#thread.worker.postMessage(order);
  }

  #handle(message: ChannelReport): void {
    switch (message.type) {
      case 'sent': {
        const done = this.#waiting.get(message.id);
        this.#waiting.delete(message.id);
        this.#inFlight -= done?.bytes ?? 0;
        if (done?.keep === undefined) this.#pace(done?.bytes ?? 0);
        else this.#paceAt = performance.now();
        done?.resolve();
        break;
      }
      case 'taken':
        this.#waiting.get(message.id)?.onTaken?.(message.pages);
        break;
      case 'rearm failed':
        this.#onRearmFailed?.(message.tracker, new GodwitError(message.code, message.message));
        break;
      case 'round end':
        void this.#roundEnded(message.round, message.pages);
        break;
      case 'device':
        this.#takeDevice(message.frame, message.bytes);
        break;
      case 'received':
        this.#readToEnd = true;
        break;
      case 'failed':
        this.#failure ??= new GodwitError(message.code, message.message);
        break;
    }
  }

  /** Adapts the size of orders once the thread has finished one with this many bytes of pages. */
  #pace(bytes: number): void {
    const now = performance.now();
    const ms = now - this.#paceAt;
    this.#paceAt = now;
    // The time of a smaller order does not show that of a full one.
    if (bytes < this.#batchBytes) return;
    if (ms < ORDER_MS.least) this.#batchBytes = Math.min(BATCH_BYTES.most, this.#batchBytes * 2);
    else if (ms > ORDER_MS.most) this.#batchBytes = Math.max(BATCH_BYTES.least, this.#batchBytes / 2);
  }

  async #roundEnded(round: number, pages: number): Promise<void> {
    try {
      await this.#onRoundEnd?.(round, pages);
    } catch (error) {
      this.abort(GodwitError.wrap(error, 'GODWIT_INTERNAL', `the end of round ${round} could not be told`));
    }
  }

  #takeDevice(frame: DeviceFrame, bytes: Uint8Array): void {
    Atomics.sub(this.#pieces, 0, 1);
    Atomics.notify(this.#pieces, 0);
    if (this.#failure !== undefined) return;
    try {
      this.#onDevice?.(frame, bytes);
    } catch (error) {
      this.abort(GodwitError.wrap(error, 'GODWIT_INTERNAL', 'a piece of device state could not be taken'));
    }
  }

  /** Called when the thread no longer touches guest memory for this channel. */
  #exited(code: number): void {
    this.#ended = true;
    closeFd(this.#fd);
    const message = `the worker thread of page channel ${this.#index} ended with code ${code}`;
    this.#failure ??= new GodwitError('GODWIT_LINK_LOST', message);
    for (const waiting of this.#waiting.values()) waiting.reject(this.#failure);
    this.#waiting.clear();
    this.#inFlight = 0;
  }

  #elsewhere(): GodwitError {
    return new GodwitError(
      'GODWIT_INVALID_STATE',
      `page channel ${this.#index} to ${this.#peer} lives on a worker thread: frames are not written or read here`,
    );
  }
}
