import { performance } from 'node:perf_hooks';
import { parentPort, workerData } from 'node:worker_threads';
import {
  DirtyRingCalls,
  KvmExit,
  KvmRun,
  KvmValue,
  kvmExitName,
  runVcpu,
  SliceTimer,
  setIrqLine,
} from '@godwit/linux/kvm';
import { attachGuestMemory } from '@godwit/linux/memory';
import { Errno, getThreadId } from '@godwit/linux/unstable/libc';
import { CmosClock } from '../devices/cmos-clock.js';
import { ConsoleRing } from '../devices/console-ring.js';
import { DefectPort } from '../devices/defect-port.js';
import { KeyboardController } from '../devices/keyboard-controller.js';
import { LinePort } from '../devices/line-port.js';
import { Pacer } from '../devices/pacer.js';
import { PauseClock } from '../devices/pause-clock.js';
import { type PortDevice, PortMap } from '../devices/port-device.js';
import { PowerPort } from '../devices/power-port.js';
import { SERIAL_IRQ, SerialPort } from '../devices/serial-port.js';
import { SerialWords } from '../devices/serial-words.js';
import { PORT_CLOCK_LOW } from '../guest/ports.js';
import { MmioWindow } from '../virtio/mmio-window.js';
import { VirtioWords } from '../virtio/virtio-words.js';
import { commandOf, SharedBoard, VcpuCommand } from './shared-board.js';
import { ThrottleSlices } from './throttle.js';
import type { GuestEnd, VcpuMessage, VcpuThreadData } from './vcpu-messages.js';

/*
 * The thread of one vCPU. It calls KVM_RUN, handles the guest's exits, and reads its command word before each KVM_RUN; vcpu-runner.ts
 * explains how the main thread gets it out of KVM_RUN. It does not return to its event loop before the end, so that it has no timers and
 * receives no messages.
 */
const {
  vcpu,
  vcpuFd,
  vmFd,
  boot,
  virtioDevices,
  runAddress,
  runBytes,
  board: buffer,
  memory: attachment,
  ringCalls,
} = workerData as VcpuThreadData;
const board = new SharedBoard(buffer);
const { words } = board;
const commandWord = board.commandWord(vcpu);
const run = new KvmRun(runAddress, runBytes);
const port = parentPort;
if (port === null) throw new Error('this module is the thread of a vCPU');

const post = (message: VcpuMessage): void => port.postMessage(message);
const ending = (): boolean => commandOf(Atomics.load(words, commandWord)) === VcpuCommand.end;
const ring = new ConsoleRing(board);
const announce = (): void => post({ type: 'console' });
const print = (text: Uint8Array): void => ring.append(text, announce, ending);
const changesWord = board.changesWord(vcpu);
/** The order with which the guest runs; undefined while the guest is being left. */
let running: number | undefined;
/** Sleeps for the guest; ends early, or does not begin, when the thread has another order. */
const sleep = (milliseconds: number): void => {
  const changes = Atomics.load(words, changesWord);
  if (running !== undefined && running === Atomics.load(words, commandWord)) {
    Atomics.wait(words, changesWord, changes, milliseconds);
  }
};

const memory = attachGuestMemory(attachment);
/** How the guest has ended itself, if it has. */
let guestEnd: GuestEnd | undefined;
const endGuest = (end: GuestEnd): void => {
  guestEnd ??= end;
};
const bundledGuestPorts = (): PortDevice[] => [
  new PauseClock(board, vcpu, PORT_CLOCK_LOW),
  new Pacer(sleep),
  new DefectPort((value) => post({ type: 'defect', value })),
  new LinePort(memory, print),
];
const linuxPorts = (): PortDevice[] => [
  new PowerPort(board, () => endGuest('shutdown')),
  new KeyboardController(() => endGuest('reset')),
  new CmosClock(board),
];
const ports = new PortMap([
  new SerialPort(new SerialWords(board), print, (high) => setIrqLine(vmFd, SERIAL_IRQ, high)),
  ...(boot === 'linux' ? linuxPorts() : bundledGuestPorts()),
]);
const virtio = new MmioWindow({
  words: new VirtioWords(board.virtio),
  vcpu,
  devices: virtioDevices,
  setIrqLine: (irq, high) => setIrqLine(vmFd, irq, high),
  call: () => post({ type: 'register' }),
  notify: () => post({ type: 'notified' }),
  gaveUp: ending,
});
const ioView = new DataView(run.bytes.buffer);
const rings = ringCalls === undefined ? undefined : new DirtyRingCalls(ringCalls);
const slices = new ThrottleSlices();
let sliceTimer: SliceTimer | undefined;
/** The time between two ticks of the slice timer; 0 while it does not tick. */
let tickMs = 0;
/** Whether the guest was entered since I/O was last completed. */
let entered = false;

/** Handles a port access, or several by a string instruction. KVM takes the input at the next KVM_RUN. */
function handlePortIo(): void {
  const { ioPort, ioSize, ioCount } = run;
  const device = ports.at(ioPort);
  let at = run.ioDataOffset;
  if (run.ioDirection === KvmValue.KVM_EXIT_IO_OUT) {
    if (device === undefined) return;
    if (ioCount > 1 && device.writeString !== undefined) {
      device.writeString(ioPort, ioSize, run.bytes.subarray(at, at + ioSize * ioCount));
      return;
    }
    for (let i = 0; i < ioCount; i++, at += ioSize) device.write(ioPort, ioSize, readNumber(at, ioSize));
    return;
  }
  for (let i = 0; i < ioCount; i++, at += ioSize) {
    writeNumber(at, ioSize, device === undefined ? 0xffff_ffff : device.read(ioPort, ioSize));
  }
}

/** Handles an access outside RAM. Where no device is, reads return all ones. */
function handleMmio(): void {
  const data = run.mmioData.subarray(0, run.mmioLength);
  if (virtio.access(run.mmioAddress, data, run.mmioIsWrite)) return;
  if (!run.mmioIsWrite) run.mmioData.fill(0xff);
}

function readNumber(at: number, size: number): number {
  if (size === 1) return ioView.getUint8(at);
  return size === 2 ? ioView.getUint16(at, true) : ioView.getUint32(at, true);
}

function writeNumber(at: number, size: number, value: number): void {
  if (size === 1) ioView.setUint8(at, value);
  else if (size === 2) ioView.setUint16(at, value, true);
  else ioView.setUint32(at, value, true);
}

/** KVM_SYSTEM_EVENT_SHUTDOWN, KVM_SYSTEM_EVENT_RESET (linux/kvm.h). */
const SYSTEM_SHUTDOWN = 1;
const SYSTEM_RESET = 2;

/** Handles an exit; returns the reason why the vCPU cannot go on, if it cannot. */
function handleExit(): string | undefined {
  switch (run.exitReason) {
    case KvmExit.KVM_EXIT_IO:
      handlePortIo();
      return guestEnd && `the guest has asked for its ${guestEnd}`;
    case KvmExit.KVM_EXIT_MMIO:
      handleMmio();
      return undefined;
    case KvmExit.KVM_EXIT_INTR:
    case KvmExit.KVM_EXIT_IRQ_WINDOW_OPEN:
      return undefined;
    case KvmExit.KVM_EXIT_DIRTY_RING_FULL:
      // Waits for the thread that reaps the rings: KVM does not let the vCPU enter the guest before that.
      rings?.ringFull(vcpu);
      return undefined;
    case KvmExit.KVM_EXIT_INTERNAL_ERROR: {
      const data = run.internalData.map((value) => `0x${value.toString(16)}`).join(' ');
      return `KVM_EXIT_INTERNAL_ERROR, suberror ${run.internalSuberror} (1 = an instruction that KVM cannot emulate), data ${data}`;
    }
    case KvmExit.KVM_EXIT_SHUTDOWN:
      return 'KVM_EXIT_SHUTDOWN (triple fault)';
    case KvmExit.KVM_EXIT_FAIL_ENTRY:
      return `KVM_EXIT_FAIL_ENTRY, hardware reason 0x${run.entryFailure.toString(16)}`;
    case KvmExit.KVM_EXIT_SYSTEM_EVENT:
      if (run.systemEvent === SYSTEM_SHUTDOWN) endGuest('shutdown');
      if (run.systemEvent === SYSTEM_RESET) endGuest('reset');
      return `KVM_EXIT_SYSTEM_EVENT ${run.systemEvent} (1 shutdown, 2 reset, 3 crash)`;
    default:
      return kvmExitName(run.exitReason);
  }
}

/**
 * Completes I/O that the guest has begun: after an exit for port I/O or MMIO, the next KVM_RUN finishes the instruction; a state that
 * was read before would repeat it or lose its result. With `immediateExit` KVM_RUN does only that; a string instruction may need several
 * calls. When the order is withdrawn, `entered` stays true.
 */
function completeIo(order: number): string | undefined {
  // The flag is set here too: the thread may have cleared the one that the main thread set for this order.
  run.immediateExit = true;
  while (entered && Atomics.load(words, commandWord) === order) {
    const result = runVcpu(vcpuFd);
    // EAGAIN: the vCPU waits for a start-up interrupt, and has begun no I/O.
    if (result === -Errno.EINTR || result === -Errno.EAGAIN) entered = false;
    else if (result < 0) return `KVM_RUN failed with errno ${-result}`;
    else {
      const failure = handleExit();
      if (failure !== undefined) return failure;
    }
  }
  return undefined;
}

/** Answers a rehearsal: tells the main thread that the vCPU was out of KVM_RUN, and then runs the guest. */
function rehearse(order: number): string | undefined {
  const failure = completeIo(order);
  post({ type: 'parked', order });
  return failure ?? runGuest(order);
}

/** Waits until the command is no longer the order that was obeyed. */
function park(order: number): void {
  post({ type: 'parked', order });
  Atomics.wait(words, commandWord, order);
}

/** Gets the thread out of KVM_RUN at the end of each run of a throttled vCPU. 0 stops this. */
function tickEvery(milliseconds: number): void {
  if (milliseconds === 0 && tickMs === 0) return;
  sliceTimer ??= new SliceTimer();
  sliceTimer.tickEvery(milliseconds);
  tickMs = milliseconds;
}

/** Holds a throttled vCPU back, until a change at the latest; returns false when it may run. */
function holdBack(changes: number): boolean {
  const now = performance.now();
  const holdMs = slices.due(now);
  if (holdMs === 0) {
    if (slices.beganAt(now)) tickEvery(slices.runMs);
    return false;
  }
  tickEvery(0);
  Atomics.wait(words, changesWord, changes, holdMs);
  const heldMs = performance.now() - now;
  slices.held(heldMs);
  board.addHeldMs(vcpu, heldMs);
  return true;
}

/** Runs the guest until another order comes, or the vCPU cannot go on; then it returns the reason. */
function runGuest(order: number): string | undefined {
  entered = true;
  running = order;
  try {
    // Cleared before the order is read: see vcpu-runner.ts.
    run.immediateExit = false;
    for (;;) {
      const changes = Atomics.load(words, changesWord);
      if (Atomics.load(words, commandWord) !== order) return undefined;
      board.readThrottle(vcpu, slices);
      if (slices.active) {
        if (holdBack(changes)) continue;
      } else {
        tickEvery(0);
      }
      const result = runVcpu(vcpuFd);
      if (result === -Errno.EINTR) {
        run.immediateExit = false;
        continue;
      }
      // The start-up interrupt has come that this vCPU has waited for in KVM_RUN.
      if (result === -Errno.EAGAIN) continue;
      const failure = result < 0 ? `KVM_RUN failed with errno ${-result}` : handleExit();
      if (failure !== undefined) return failure;
    }
  } finally {
    running = undefined;
    slices.leave(performance.now());
    tickEvery(0);
  }
}

function obey(command: number, order: number): string | undefined {
  if (command === VcpuCommand.run) return runGuest(order);
  return command === VcpuCommand.rehearse ? rehearse(order) : completeIo(order);
}

function main(): void {
  Atomics.store(words, board.threadIdWord(vcpu), getThreadId());
  let failure: string | undefined;
  for (;;) {
    const order = Atomics.load(words, commandWord);
    const command = commandOf(order);
    if (command === VcpuCommand.end) break;
    if (failure === undefined) {
      failure = obey(command, order);
      if (failure !== undefined)
        post({ type: 'failed', reason: failure, ...(guestEnd === undefined ? {} : { end: guestEnd }) });
    } else if (command === VcpuCommand.rehearse) post({ type: 'parked', order });
    if (command === VcpuCommand.park) park(order);
    else if (failure !== undefined) Atomics.wait(words, commandWord, order);
  }
  sliceTimer?.close();
}

main();
