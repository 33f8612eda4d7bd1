import { getPriority, setPriority } from 'node:os';
import { parentPort } from 'node:worker_threads';
import {
  type ChannelDevice,
  ChannelEncoder,
  type Clock,
  type Compression,
  type DeviceFrame,
  type FrameStream,
  GodwitError,
  LocalPageChannel,
  MemoryWindows,
  makeEncoding,
  makeFromRecipe,
  PageBoard,
  PageQueue,
  PageRunList,
  PageTaker,
  PageWriter,
  pageFrames,
  type Rearm,
  type RearmRecipe,
  readPageChannel,
  systemClock,
} from '@godwit/core/pages';
import { viewOf } from '@godwit/linux/unstable/libc';
import { frameStream } from '@godwit/transport/framing';
import { attachedMemory } from './attachable-memory.js';
import { ChannelCounters } from './channel-counters.js';
import type { ChannelOrder, ChannelReport } from './channel-messages.js';
import { DescriptorStream } from './descriptor-stream.js';
import { takePages } from './take-pages.js';

/*
 * The thread of one page channel: the engine's own sender or reader, over a socket that it waits on in the kernel. Between
 * two orders it is in its event loop; while it reads or writes it is nowhere else.
 */
const port = parentPort;
if (port === null) throw new Error('this module is the thread of a page channel');
const report = (message: ChannelReport): void => port.postMessage(message);

/**
 * Guest bytes of a frame, where one order has as many. What each frame costs both ends, outside the kernel, is seen less;
 * after a lost link one that has not come whole is sent again.
 */
const FRAME_BYTES = 4 * 2 ** 20;

/**
 * By how much this thread is nicer than the one that started it: where threads want more processors than there are, the event
 * loop and the guest's virtual CPUs come first. Beside one that never rests it gets two fifths of a processor, not a half.
 */
const NICER = 2;
const LEAST_PRIORITY = 19;

/** Most pieces of device state that the main thread has not taken. */
const MOST_UNTAKEN = 2;

/** How long a thread that waits for that sleeps before it looks whether the connection is over. Milliseconds. */
const UNTAKEN_MS = 20;

/** Nobody else waits for this thread. */
const clock: Clock = { ...systemClock, yield: async () => {} };

type OrderOf<T extends ChannelOrder['type']> = Extract<ChannelOrder, { type: T }>;

/** What the orders work on; each is there once an earlier order has brought it. */
let bytes: DescriptorStream | undefined;
let stream: FrameStream | undefined;
let sender: LocalPageChannel | undefined;
let framePages = 1;
let counters: ChannelCounters | undefined;
let taker: PageTaker | undefined;
let encodes = false;

async function obey(order: ChannelOrder): Promise<void> {
  switch (order.type) {
    case 'connect': {
      const { fd, peer, unread, received, checksums } = order.connection;
      counters = new ChannelCounters(order.connection.counters);
      bytes = new DescriptorStream(fd, peer, unread, new BigInt64Array(received));
      stream = frameStream(bytes, { checksums });
      break;
    }
    case 'send':
      sender = await senderOf(order);
      break;
    case 'receive':
      await receive(order);
      break;
    case 'close':
      await end();
      break;
    case 'batch':
      await send(order);
      break;
    case 'take':
      await take(order);
      break;
    case 'device':
      await there(sender).sendDevice(order.frame, bytesAt(order.address, order.byteLength));
      reportSent(order.id);
      break;
    case 'end round':
      await there(sender).endRound(order.round);
      reportSent(order.id);
      break;
  }
}

async function senderOf(order: OrderOf<'send'>): Promise<LocalPageChannel> {
  const { maximumPayload } = order;
  const { cache, compressions: recipes, adaptive } = order.encodings;
  const memory = attachedMemory(order.memory);
  const windows = new MemoryWindows(memory).open();
  taker = new PageTaker(PageQueue.join(memory, order.queue), memory, await rearmOf(order.rearm));
  framePages = Math.max(1, Math.floor(Math.min(FRAME_BYTES, maximumPayload) / windows.pageSize));
  const compressions = (await Promise.all(recipes.map(makeEncoding))) as Compression[];
  const encoder =
    cache === undefined && compressions.length === 0
      ? undefined
      : new ChannelEncoder({ windows, clock, cache, compressions, adaptive });
  encodes = encoder !== undefined;
  return new LocalPageChannel(there(stream), windows, clock, encoder);
}

/** Re-arms pages with every tracker that leaves that to the engine; the time counts as looking at them. */
async function rearmOf(recipes: readonly RearmRecipe[]): Promise<Rearm | undefined> {
  if (recipes.length === 0) return undefined;
  const all = await Promise.all(
    recipes.map(async ({ tracker, recipe }) => ({
      tracker,
      rearm: (await makeFromRecipe(recipe, 'a Rearm')) as Rearm,
    })),
  );
  return (...pages) => {
    for (const { tracker, rearm } of all) {
      try {
        rearm(...pages);
      } catch (error) {
        const { code, message } = GodwitError.wrap(error, 'GODWIT_TRACKER_FAILED', 'pages could not be re-armed');
        report({ type: 'rearm failed', tracker, code, message });
      }
    }
  };
}

async function receive(order: OrderOf<'receive'>): Promise<void> {
  const memory = attachedMemory(order.memory);
  const board = PageBoard.join(memory, order.board);
  const encodings = await Promise.all(order.encodings.map(makeEncoding));
  const windows = new MemoryWindows(memory).open();
  const writer = new PageWriter(order.channel, windows, board, clock, encodings);
  const onRoundEnd = (round: number, pages: number) => report({ type: 'round end', round, pages });
  const pieces = order.pieces === undefined ? undefined : new Int32Array(order.pieces);
  const onDevice: ChannelDevice | undefined =
    pieces && ((from, frame, payloadBytes) => passOn(from, frame, payloadBytes, pieces, () => board.stopped));
  await readPageChannel(there(stream), writer, onRoundEnd, onDevice);
  report({ type: 'received' });
  await end();
}

/**
 * Reads a piece of device state and hands it to the main thread. While that has not taken some, nothing is read, so that a peer that
 * sends more than the main thread takes is held back by its socket.
 */
async function passOn(
  from: FrameStream,
  frame: DeviceFrame,
  payloadBytes: number,
  pieces: Int32Array,
  isOver: () => boolean,
): Promise<void> {
  for (let untaken = Atomics.load(pieces, 0); untaken >= MOST_UNTAKEN; untaken = Atomics.load(pieces, 0)) {
    if (isOver()) return from.skipPayload();
    Atomics.wait(pieces, 0, untaken, UNTAKEN_MS);
  }
  const bytes = new Uint8Array(payloadBytes);
  if (payloadBytes > 0) await from.readPayload([bytes]);
  Atomics.add(pieces, 0, 1);
  port?.postMessage({ type: 'device', frame, bytes } satisfies ChannelReport, [bytes.buffer]);
}

function bytesAt(address: bigint, byteLength: number): Uint8Array {
  return byteLength === 0 ? new Uint8Array() : viewOf(address, byteLength);
}

async function send(order: OrderOf<'batch'>): Promise<void> {
  const { round, block: blockIndex, limit } = order;
  const runs = PageRunList.fromPairs(order.runs);
  const holes = PageRunList.fromPairs(order.holes);
  for (const frame of pageFrames({ round, blockIndex, runs, holes, limit }, framePages))
    await there(sender).send(frame);
  reportSent(order.id);
}

async function take({ id, round, pass }: OrderOf<'take'>): Promise<void> {
  const channel = there(sender);
  await takePages(there(taker), channel, {
    ...{ round, pass, clock, framePages, encodes },
    onTaken: (pages) => report({ type: 'taken', id, pages }),
    onSent: count,
  });
  reportSent(id);
}

function count(): void {
  there(counters).store(there(sender).totals, there(stream).bytesWritten);
}

function reportSent(id: number): void {
  count();
  report({ type: 'sent', id });
}

/** Ends our direction, waits for the end of the peer's, and lets the thread end. */
async function end(): Promise<void> {
  await stream?.close();
  bytes?.free();
  port?.close();
}

function there<T>(part: T | undefined): T {
  if (part === undefined) throw new GodwitError('GODWIT_INTERNAL', 'an order came to a page channel before its time');
  return part;
}

/** Linux has a priority for each thread, and 0 stands for the one that calls (setpriority(2)). */
function giveWay(): void {
  try {
    setPriority(0, Math.min(LEAST_PRIORITY, getPriority(0) + NICER));
  } catch {
    // A sandbox may forbid it: then all are equal.
  }
}

let failed = false;
function fail(error: unknown): void {
  if (failed) return;
  failed = true;
  const { code, message } = GodwitError.wrap(error, 'GODWIT_INTERNAL', 'the thread of a page channel failed');
  report({ type: 'failed', code, message });
  bytes?.free();
  port?.close();
}

/** Batches and device state go on beside each other (while one batch is compressed the next is read); all else comes in its order. */
let last: Promise<unknown> = Promise.resolve();
const batches = new Set<Promise<void>>();
port.on('message', (order: ChannelOrder) => {
  if (order.type !== 'batch' && order.type !== 'take' && order.type !== 'device') {
    last = last.then(() => Promise.all(batches)).then(() => (failed ? undefined : obey(order)));
    last.catch(fail);
    return;
  }
  const batch = last.then(() => (failed ? undefined : obey(order)));
  batches.add(batch);
  batch.then(() => batches.delete(batch), fail);
});
giveWay();
report({ type: 'ready' });
