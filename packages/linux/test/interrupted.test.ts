import { readFileSync } from 'node:fs';
import { hostSupport, installWakeSignal, Kvm, SliceTimer, WAKE_SIGNAL } from '@godwit/linux';
import { Errno, uninterrupted, uninterruptedAsync } from '@godwit/linux/unstable';
import { afterEach, expect, test } from '@jest/globals';
import { testWhen } from './when-usable.js';

const timers: SliceTimer[] = [];
afterEach(() => {
  for (const timer of timers.splice(0)) timer.close();
});

/** Whether this thread holds the wake signal back, as the kernel has it. */
function holdsWakeSignal(): boolean {
  const mask = /^SigBlk:\s*([0-9a-f]+)$/m.exec(readFileSync('/proc/thread-self/status', 'utf8'))?.[1] ?? '';
  return ((BigInt(`0x${mask}`) >> BigInt(WAKE_SIGNAL - 1)) & 1n) === 1n;
}

test.each([0, 1, 5, 20])('a call that signals interrupt %d times goes through', async (times) => {
  let left = times;
  expect(uninterrupted(() => (left-- > 0 ? -Errno.EINTR : 7))).toBe(7);
  left = times;
  expect(await uninterruptedAsync(async () => (left-- > 0 ? -Errno.EINTR : 7))).toBe(7);
});

test('other errors are the caller’s, at once', async () => {
  let calls = 0;
  const failing = () => {
    calls++;
    return -Errno.EAGAIN;
  };
  expect(uninterrupted(failing)).toBe(-Errno.EAGAIN);
  expect(await uninterruptedAsync(async () => failing())).toBe(-Errno.EAGAIN);
  expect(calls).toBe(2);
});

test('signals that never cease are held back for the call, and only for it', () => {
  expect(holdsWakeSignal()).toBe(false);
  expect(uninterrupted(() => (holdsWakeSignal() ? 7 : -Errno.EINTR))).toBe(7);
  expect(holdsWakeSignal()).toBe(false);
  const failure = new Error('in the call');
  let calls = 0;
  const throwing = () => {
    if (++calls > 16) throw failure;
    return -Errno.EINTR;
  };
  expect(() => uninterrupted(throwing)).toThrow(failure);
  expect(holdsWakeSignal()).toBe(false);
});

testWhen(hostSupport().kvm)('VMs are made under timers of a millisecond, and of 30 microseconds', () => {
  installWakeSignal();
  const kvm = Kvm.open();
  const timer = new SliceTimer();
  timers.push(timer);
  for (const milliseconds of [1, 0.1, 0.03]) {
    timer.tickEvery(milliseconds);
    for (let i = 0; i < 100; i++) kvm.createVm().close();
  }
  kvm.close();
});
