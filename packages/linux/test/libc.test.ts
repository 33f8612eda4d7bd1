import { existsSync } from 'node:fs';
import { constants } from 'node:os';
import { setImmediate, setTimeout } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { Worker } from 'node:worker_threads';
import { getThreadId, installWakeSignal, SyscallError, signalThread } from '@godwit/linux';
import {
  callAsync,
  cFunction,
  checkAsync,
  closeFd,
  Errno,
  errnoName,
  eventfd,
  HOST_PAGE_SIZE,
  ioctl,
  ioctlAsync,
  lastErrno,
  MapFlags,
  mmap,
  munmap,
  openDevice,
  readFd,
  tryIoctl,
  viewOf,
  writeFd,
} from '@godwit/linux/unstable';
import { expect, test } from '@jest/globals';
import { errorOf } from './error-of.js';
import { testWhen } from './when-usable.js';

const read = cFunction<[number, Uint8Array, number], number>('read', 'long', ['int', 'void *', 'size_t']);
const count = (value: number): Uint8Array => new Uint8Array(new BigUint64Array([BigInt(value)]).buffer);

test('every errno that Node knows has the same name here', () => {
  // Two names of one number.
  const aliases = new Map([
    ['EWOULDBLOCK', 'EAGAIN'],
    ['ENOTSUP', 'EOPNOTSUPP'],
  ]);
  const known = Object.entries(constants.errno);
  expect(known.length).toBeGreaterThan(70);
  for (const [name, number] of known) expect(errnoName(number)).toBe(aliases.get(name) ?? name);
  for (const [name, number] of Object.entries(Errno)) expect(errnoName(number)).toBe(name);
  expect([errnoName(133), errnoName(134), errnoName(524), errnoName(41)]).toEqual([
    'EHWPOISON',
    'errno 134',
    'errno 524',
    'errno 41',
  ]);
});

test('a failed ioctl names the request, the errno and its words', async () => {
  const fd = eventfd();
  const error = (await errorOf(() => ioctl(fd, 0xae01, 0, 'KVM_CREATE_VM'))) as SyscallError;
  closeFd(fd);
  expect(error).toBeInstanceOf(SyscallError);
  expect(error).toMatchObject({ code: 'GODWIT_SYSCALL', syscall: 'KVM_CREATE_VM', errno: 25, errnoName: 'ENOTTY' });
  expect(error.message).toBe(`KVM_CREATE_VM on file descriptor ${fd} failed: ENOTTY (inappropriate ioctl for device)`);
  expect(tryIoctl(fd, 0xae01)).toBe(-9);
});

test('errors that a person can act on have codes of their own', async () => {
  expect(await errorOf(() => openDevice('/dev/vfio/no-such-group'))).toMatchObject({
    code: 'GODWIT_UNSUPPORTED',
    errnoName: 'ENOENT',
    message: expect.stringContaining('bind the device to vfio-pci'),
  });
  expect(
    await errorOf(() => mmap({ byteLength: 2 ** 50, flags: MapFlags.MAP_PRIVATE | MapFlags.MAP_ANONYMOUS })),
  ).toMatchObject({
    code: 'GODWIT_OUT_OF_MEMORY',
    errnoName: 'ENOMEM',
    message: expect.stringContaining('1125899906842624 bytes'),
  });
  expect(new SyscallError('open', Errno.EACCES, '/dev/kvm').code).toBe('GODWIT_PERMISSION');
  expect(new SyscallError('open', Errno.EPERM, '/dev/kvm').code).toBe('GODWIT_PERMISSION');
  expect(new SyscallError('userfaultfd', Errno.ENOSYS, '').code).toBe('GODWIT_UNSUPPORTED');
  // ENOENT is only a missing feature when it is a device node that is missing.
  expect(new SyscallError('KVM_GET_DIRTY_LOG', Errno.ENOENT, '').code).toBe('GODWIT_SYSCALL');
});

/** sysfs refuses to open a read-only attribute for writing, whoever asks. */
const READ_ONLY = '/sys/kernel/mm/transparent_hugepage/hpage_pmd_size';
const testReadOnly = testWhen(
  existsSync(READ_ONLY) ? { usable: true } : { usable: false, reason: `${READ_ONLY} does not exist` },
);

testReadOnly('a device node without permission says so, even to root', async () => {
  expect(await errorOf(() => openDevice(READ_ONLY))).toMatchObject({ code: 'GODWIT_PERMISSION', errnoName: 'EACCES' });
});

test('an asynchronous call reports its errno, although errno is gone by then', async () => {
  expect(await callAsync(read, -1, new Uint8Array(8), 8)).toBe(-9);
  expect(lastErrno()).not.toBe(9);
  const error = await errorOf(() => checkAsync('read', 'nothing', read, -1, new Uint8Array(8), 8));
  expect(error).toMatchObject({ code: 'GODWIT_SYSCALL', errnoName: 'EBADF' });
  expect(await errorOf(() => ioctlAsync(-1, 0xae01, 0, 'KVM_CREATE_VM'))).toMatchObject({ syscall: 'KVM_CREATE_VM' });
});

test('the buffer of an asynchronous call lives until the call is over, and not longer', async () => {
  setFlagsFromString('--expose_gc');
  const collect = runInNewContext('gc') as () => void;
  const fd = eventfd(0, 0);
  const { pending, buffer } = ((): { pending: Promise<number>; buffer: WeakRef<Uint8Array> } => {
    const bytes = new Uint8Array(4096);
    return { pending: callAsync(read, fd, bytes, 4096), buffer: new WeakRef(bytes) };
  })();
  for (let i = 0; i < 5; i++) {
    await setImmediate();
    collect();
  }
  expect(buffer.deref()?.byteLength).toBe(4096);
  await setImmediate();
  writeFd(fd, count(7));
  expect(await pending).toBe(8);
  for (let i = 0; i < 20 && buffer.deref() !== undefined; i++) {
    await setImmediate();
    collect();
  }
  expect(buffer.deref()).toBeUndefined();
  closeFd(fd);
});

test('an asynchronous call that cannot be queued rejects', async () => {
  const fd = eventfd(0, 0);
  const calls: Promise<number>[] = [];
  for (let i = 0; i < 300; i++) calls.push(callAsync(read, fd, new Uint8Array(8), 8));
  const feed = setInterval(() => writeFd(fd, count(1)), 0);
  const outcomes = await Promise.allSettled(calls);
  clearInterval(feed);
  closeFd(fd);
  expect(outcomes.some(({ status }) => status === 'rejected')).toBe(true);
  expect(outcomes.every((outcome) => outcome.status === 'rejected' || outcome.value === 8)).toBe(true);
});

test('a signal interrupts the system call of another thread and does no harm', async () => {
  installWakeSignal();
  const fd = eventfd(0, 0);
  const worker = new Worker(new URL('./workers/blocked-reader.js', import.meta.url), { workerData: fd });
  const messages: number[] = [];
  const ended = new Promise((resolve) => worker.once('exit', resolve));
  worker.on('message', (message: number) => messages.push(message));
  while (messages.length === 0) await setTimeout(1);
  const threadId = messages[0] as number;
  expect(threadId).not.toBe(getThreadId());
  // The thread says who it is just before it blocks: repeat until the signal has found it inside the call.
  while (messages.length === 1) {
    expect(signalThread(threadId)).toBe(true);
    await setTimeout(5);
  }
  expect(messages[1]).toBe(-Errno.EINTR);
  await ended;
  closeFd(fd);
  // No thread has the largest id that Linux can give (PID_MAX_LIMIT, 2^22).
  expect(signalThread(2 ** 22)).toBe(false);
  expect(() => installWakeSignal(11)).toThrow(RangeError);
});

test('a mapping is seen through a view, and reads of it go straight into it', () => {
  const address = mmap({ byteLength: HOST_PAGE_SIZE, flags: MapFlags.MAP_PRIVATE | MapFlags.MAP_ANONYMOUS });
  const view = viewOf(address, HOST_PAGE_SIZE);
  const fd = eventfd(258);
  expect(readFd(fd, view.subarray(16, 24))).toBe(8);
  expect([...view.subarray(15, 19)]).toEqual([0, 2, 1, 0]);
  expect(readFd(fd, view)).toBe(-Errno.EAGAIN);
  closeFd(fd);
  munmap(address, HOST_PAGE_SIZE);
  expect(() => viewOf(address, 2 ** 33)).toThrow(RangeError);
});
