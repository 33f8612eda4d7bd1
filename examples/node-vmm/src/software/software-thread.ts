import { performance } from 'node:perf_hooks';
import { parentPort, workerData } from 'node:worker_threads';
import { attachGuestMemory } from '@godwit/linux/memory';
import { ConsoleRing } from '../devices/console-ring.js';
import { monotonicMicroseconds } from '../devices/monotonic-clock.js';
import { BOOT_PARAMS_BYTES, decodeBootParams } from '../guest/boot-params.js';
import { PARAMS_ADDRESS } from '../guest/layout.js';
import { runSoftwareGuest } from '../guest/software-guest.js';
import { decodeSoftwareGuestState, encodeSoftwareGuestState } from '../guest/software-guest-state.js';
import { ramOf } from '../machine/memory-map.js';
import { BoardWord, SharedBoard } from '../vcpu/shared-board.js';
import { THROTTLE_SLICE_MS, throttleSleep } from '../vcpu/throttle.js';
import type { SoftwareMessage, SoftwareOrder, SoftwareThreadData } from './software-messages.js';

/*
 * The thread of a software guest. It takes orders as messages: the guest, unlike one in KVM_RUN, returns to the event loop when a word
 * on the board requests it.
 */
const { board: buffer, memory } = workerData as SoftwareThreadData;
const port = parentPort;
if (port === null) throw new Error('this module is the thread of a software guest');

const board = new SharedBoard(buffer);
const { words, guestClock } = board;
const control = words.subarray(BoardWord.softwareRequest, BoardWord.softwareRequest + 1);
const ram = ramOf(attachGuestMemory(memory));
const ring = new ConsoleRing(board);
const encoder = new TextEncoder();
const monotonic = monotonicMicroseconds();
const post = (message: SoftwareMessage): void => port.postMessage(message);
const announce = (): void => post({ type: 'console' });
let sliceEnds = 0;

/** The guest's clock. The guest reads it at every turn, so that it also sleeps here when it is throttled. */
function now(): number {
  const throttle = Atomics.load(words, BoardWord.throttle);
  if (throttle === 0) sliceEnds = 0;
  else if (sliceEnds === 0) sliceEnds = performance.now() + THROTTLE_SLICE_MS;
  else if (performance.now() >= sliceEnds) {
    Atomics.wait(control, 0, 0, throttleSleep(throttle));
    sliceEnds = performance.now() + THROTTLE_SLICE_MS;
  }
  return Math.floor(monotonic() + (guestClock[0] as number));
}

const hooks = {
  // The guest waits for a full ring; the main thread empties it even while it waits for the guest to stop.
  print: (line: string): void => ring.append(encoder.encode(line), announce, () => false),
  now,
  defect: (value: number): void => post({ type: 'defect', value }),
};

port.on('message', (order: SoftwareOrder) => {
  if (order.type === 'end') {
    port.close();
    return;
  }
  // At a destination the parameters have come with the RAM.
  const params = decodeBootParams(ram.view(PARAMS_ADDRESS, BOOT_PARAMS_BYTES));
  const before = order.state === undefined ? undefined : decodeSoftwareGuestState(order.state);
  const { state } = runSoftwareGuest(ram, params, control, hooks, before);
  post({ type: 'stopped', state: encodeSoftwareGuestState(state) });
});
post({ type: 'started' });
