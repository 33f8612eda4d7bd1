import { setImmediate } from 'node:timers/promises';
import { type MessagePort, parentPort, receiveMessageOnPort, workerData } from 'node:worker_threads';
import {
  answerRequests,
  type ChannelDevice,
  ChannelEncoder,
  type Clock,
  type DeviceFrame,
  type FrameStream,
  GodwitError,
  LocalPageChannel,
  MemoryWindows,
  type MissingSink,
  makeEncoding,
  makeFromRecipe,
  noTotals,
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
  type WholePageEncoding,
} from '@godwit/core/pages';
import { Errno, receiveFrom, SocketNumbers, viewOf } from '@godwit/linux/unstable/libc';
import { frameStream } from '@godwit/transport/framing';
import { attachedMemory } from './attachable-memory.js';
import { ChannelCounters } from './channel-counters.js';
import type { ChannelOrder, ChannelReport } from './channel-messages.js';
import { DescriptorStream } from './descriptor-stream.js';
import { missingSinkOf } from './missing/page-putter.js';
import { warmUpAnswers } from './missing/warm-up.js';
import { takePages } from './take-pages.js';
import { provideModules, type ThreadModules } from './thread-modules.js';
import { beFirst, beNicerBy } from './thread-priority.js';

/*
 * The thread of one page channel. It runs the engine's own sender or reader over a socket with blocking calls, and returns to its event
 * loop, which receives orders, only between two orders.
 */
const port = parentPort;
if (port === null) throw new Error('this module is the thread of a page channel');
provideModules(workerData as ThreadModules);
const report = (message: ChannelReport): void => port.postMessage(message);

/**
 * Most guest bytes of a frame. Large frames keep the cost per frame outside the kernel small at both ends; a frame that is incomplete
 * when the link is lost is sent again.
 */
const FRAME_BYTES = 4 * 2 ** 20;

/**
 * The number that is added to this thread's nice value, so that the event loop and the guest's vCPUs come first when threads want more
 * processors than there are. Beside a thread that never sleeps this one gets two fifths of a processor instead of half.
 */
const NICER = 2;

/**
 * How long the thread that answers polls for the next request before it sleeps, where it has its priority: a guest that has got a page
 * soon waits for the next one. Milliseconds.
 */
const ANSWER_POLL_MS = 0.04;

/** Most pieces of device state that are reported and not yet taken by the main thread. */
const MOST_UNTAKEN = 2;

/** How long this thread waits for the main thread to take a piece before it checks whether the connection has ended. Milliseconds. */
const UNTAKEN_MS = 20;

/** This thread has no other work, so that it need not yield to its event loop. */
const clock: Clock = { ...systemClock, yield: async () => {} };

type OrderOf<T extends ChannelOrder['type']> = Extract<ChannelOrder, { type: T }>;

/** The state on which orders work; each part is set by an earlier order. */
let bytes: DescriptorStream | undefined;
let stream: FrameStream | undefined;
let socket = -1;
let sender: LocalPageChannel | undefined;
let framePages = 1;
let counters: ChannelCounters | undefined;
let taker: PageTaker | undefined;
let encodes = false;
/** True until the first order, apart from the warm-up. */
let idle = true;
/** The warm-up while this thread was idle; resolves with whether the code that answers was compiled then. */
let warm: Promise<boolean> | undefined;

async function obey(order: Exclude<ChannelOrder, OrderOf<'warm up'>>): Promise<void> {
  switch (order.type) {
    case 'connect': {
      const { fd, peer, unread, received, checksums } = order.connection;
      counters = new ChannelCounters(order.connection.counters);
      socket = fd;
      bytes = new DescriptorStream(fd, peer, unread, new BigInt64Array(received));
      stream = frameStream(bytes, { checksums });
      break;
    }
    case 'send':
      sender = await senderOf(order);
      countTimes();
      break;
    case 'receive':
      await receive(order);
      break;
    case 'answer':
      await answer(order);
      break;
    case 'missing':
      // `missingSink` reads this order itself; a thread that has ended its reading does not need it any more.
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
  const { cache, recipes, adaptive } = order.encodings;
  const memory = attachedMemory(order.memory);
  const windows = new MemoryWindows(memory).open();
  taker = new PageTaker(PageQueue.join(memory, order.queue), memory, await rearmOf(order.rearm));
  framePages = Math.max(1, Math.floor(Math.min(FRAME_BYTES, maximumPayload) / windows.pageSize));
  const encodings = (await Promise.all(recipes.map(makeEncoding))) as WholePageEncoding[];
  const encoder =
    cache === undefined && encodings.length === 0
      ? undefined
      : new ChannelEncoder({ windows, clock, cache, encodings, maximumPayload, adaptive });
  encodes = encoder !== undefined;
  return new LocalPageChannel(there(stream), windows, clock, encoder);
}

/** Makes the function that re-arms pages with every tracker of `recipes`; its time counts as scanning. */
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
  const writer = new PageWriter(order.channel, windows, board, clock, encodings, missingSink);
  const onRoundEnd = (round: number, pages: number) => report({ type: 'round end', round, pages });
  const pieces = order.pieces === undefined ? undefined : new Int32Array(order.pieces);
  const onDevice: ChannelDevice | undefined =
    pieces && ((from, frame, payloadBytes) => passOn(from, frame, payloadBytes, pieces, () => board.stopped));
  await readPageChannel(there(stream), writer, onRoundEnd, onDevice);
  report({ type: 'received' });
  await end();
}

/** Whether the socket has bytes to read, or has ended. */
function hasBytes(fd: number): boolean {
  const { MSG_DONTWAIT, MSG_PEEK } = SocketNumbers;
  return receiveFrom(fd, new Uint8Array(1), 1, MSG_DONTWAIT | MSG_PEEK) !== -Errno.EAGAIN;
}

/** The sink for missing pages. Its order was sent before the board said that pages are missing. */
let sink: MissingSink | undefined;
function missingSink(): MissingSink {
  const orders = port as MessagePort;
  for (let next = receiveMessageOnPort(orders); next !== undefined; next = receiveMessageOnPort(orders)) {
    const order = next.message as ChannelOrder;
    if (order.type === 'missing') sink = missingSinkOf(order.parts);
  }
  if (sink === undefined) throw new GodwitError('GODWIT_INTERNAL', 'pages came before it was said how they are put');
  return sink;
}

async function answer(order: OrderOf<'answer'>): Promise<void> {
  const memory = attachedMemory(order.memory);
  const windows = new MemoryWindows(memory).open();
  const queue = PageQueue.join(memory, order.queue);
  const totals = noTotals();
  if ((await warm) !== true) await warmUpAnswers(() => !hasBytes(socket));
  // Not before: the warm-up never sleeps.
  bytes?.pollFor(beFirst() ? ANSWER_POLL_MS : 0);
  const onAnswer = () => counters?.store(totals, there(stream).bytesWritten);
  await answerRequests(there(stream), { windows, queue, open: new Int32Array(order.open), onAnswer });
  report({ type: 'received' });
  await end();
}

/**
 * Reads a piece of device state and hands it to the main thread. While too many pieces wait for the main thread, the socket is not read,
 * which holds back a peer that sends more than the main thread takes.
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
  const { round, block: blockIndex, limit, whole } = order;
  const runs = PageRunList.fromPairs(order.runs);
  const holes = PageRunList.fromPairs(order.holes);
  for (const frame of pageFrames({ round, blockIndex, runs, holes, limit, whole }, framePages))
    await there(sender).send(frame);
  reportSent(order.id);
}

async function take({ id, round, pass, whole }: OrderOf<'take'>): Promise<void> {
  const channel = there(sender);
  await takePages(there(taker), channel, {
    ...{ round, pass, whole, clock, framePages, encodes },
    onTaken: (pages) => report({ type: 'taken', id, pages }),
    onSent: count,
  });
  reportSent(id);
}

function count(): void {
  there(counters).store(there(sender).totals, there(stream).bytesWritten);
}

/** Counts all, with this thread's processor time, which takes longer to find out than a frame should. */
function countTimes(): void {
  Object.assign(there(sender).totals, clock.processorTime?.());
  count();
}

function reportSent(id: number): void {
  countTimes();
  report({ type: 'sent', id });
}

/** Ends this side's direction of the socket, waits for the end of the peer's, and lets the thread end. */
async function end(): Promise<void> {
  await stream?.close();
  bytes?.free();
  port?.close();
}

function there<T>(part: T | undefined): T {
  if (part === undefined) throw new GodwitError('GODWIT_INTERNAL', 'an order came to a page channel before its time');
  return part;
}

/** Lets the event loop run; resolves with true while no order has come. */
async function nextTurn(): Promise<boolean> {
  await setImmediate();
  return idle;
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

/** Batches and device state may be sent at the same time (while one batch is compressed the next is read); other orders wait for them. */
let last: Promise<unknown> = Promise.resolve();
const batches = new Set<Promise<void>>();
port.on('message', (order: ChannelOrder) => {
  if (order.type === 'warm up') {
    warm ??= warmUpAnswers(nextTurn).catch(() => false);
    return;
  }
  idle = false;
  if (order.type !== 'batch' && order.type !== 'take' && order.type !== 'device') {
    last = last.then(() => Promise.all(batches)).then(() => (failed ? undefined : obey(order)));
    last.catch(fail);
    return;
  }
  const batch = last.then(() => (failed ? undefined : obey(order)));
  batches.add(batch);
  batch.then(() => batches.delete(batch), fail);
});
beNicerBy(NICER);
report({ type: 'ready' });
