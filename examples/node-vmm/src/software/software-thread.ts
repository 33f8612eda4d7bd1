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
import { ThrottleSlices } from '../vcpu/throttle.js';
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
const slices = new ThrottleSlices();
const changesWord = board.changesWord(0);
const commandWord = board.commandWord(0);
/** The last order to rehearse a pause that was answered. */
let rehearsed = Atomics.load(words, commandWord);

/** Holds the guest back for as long as the throttle requires, unless the guest is told to stop. */
function holdBack(): void {
  for (;;) {
    const changes = Atomics.load(words, changesWord);
    answerRehearsal();
    if (Atomics.load(control, 0) !== 0) return;
    board.readThrottle(0, slices);
    const since = performance.now();
    const holdMs = slices.due(since);
    if (holdMs === 0) return;
    Atomics.wait(words, changesWord, changes, holdMs);
    const heldMs = performance.now() - since;
    slices.held(heldMs);
    board.addHeldMs(0, heldMs);
  }
}

/** Answers a rehearsal between two turns of the guest, where the guest could stop. */
function answerRehearsal(): void {
  const order = Atomics.load(words, commandWord);
  if (order === rehearsed) return;
  rehearsed = order;
  post({ type: 'rehearsed', order });
}

/** The guest's clock. The throttle holds the guest back here too, since the guest reads the clock at every turn. */
function now(): number {
  holdBack();
  return Math.floor(monotonic() + (guestClock[0] as number));
}

/** Sleeps for the guest; ends early at a change. */
function sleep(microseconds: number): void {
  const changes = Atomics.load(words, changesWord);
  const asked = Atomics.load(control, 0) !== 0 || Atomics.load(words, commandWord) !== rehearsed;
  if (!asked) Atomics.wait(words, changesWord, changes, microseconds / 1000);
}

const hooks = {
  // The guest waits for a full ring; the main thread empties it even while it waits for the guest to stop.
  print: (line: string): void => ring.append(encoder.encode(line), announce, () => false),
  now,
  sleep,
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
  slices.leave(performance.now());
  post({ type: 'stopped', state: encodeSoftwareGuestState(state) });
});
post({ type: 'started' });
