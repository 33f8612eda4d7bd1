import { createServer } from 'node:net';
import { hostSupport, installWakeSignal, Kvm, SliceTimer } from '@godwit/linux';
import {
  closeFd,
  closeFdAsync,
  Errno,
  eventfd,
  fallocate,
  ftruncate,
  ioctl,
  KVM_DIRTY_LOG,
  memfdCreate,
  mmap,
  munmap,
  readFd,
  readFdAsync,
  StructBuffer,
  seekData,
  setReceiveTimeout,
  tryIoctlAsync,
  writeFd,
} from '@godwit/linux/unstable';
import { expect, test } from '@jest/globals';
import { errorOf } from './error-of.js';
import { testWhen } from './when-usable.js';

/** What koffi would hand to C as another number, or as none. */
const NOT_WHOLE = [0.5, 3.7, Number.NaN, Number.POSITIVE_INFINITY];
const invalid = expect.objectContaining({ code: 'GODWIT_INVALID_ARGUMENT' });

test.each([...NOT_WHOLE, 2 ** 32 + 5])('%d is no file descriptor, and reaches none', async (wrong) => {
  const buffer = new Uint8Array(8);
  for (const call of [
    () => closeFd(wrong),
    () => readFd(wrong, buffer),
    () => writeFd(wrong, buffer),
    () => ioctl(wrong, 0),
    () => ftruncate(wrong, 0),
    () => setReceiveTimeout(wrong, 1),
  ]) {
    expect(call).toThrow(invalid);
  }
  for (const call of [() => closeFdAsync(wrong), () => readFdAsync(wrong, buffer), () => tryIoctlAsync(wrong, 0)]) {
    await expect(call()).rejects.toEqual(invalid);
  }
});

test('a descriptor beside the one that was meant stays open', async () => {
  const fd = eventfd();
  expect(() => closeFd(fd + 0.7)).toThrow(invalid);
  expect(writeFd(fd, new Uint8Array(new BigUint64Array([1n]).buffer))).toBe(8);
  await closeFdAsync(fd);
  expect((await errorOf(() => closeFd(fd))).message).toMatch(/close file descriptor \d+ failed: EBADF/);
  expect(await tryIoctlAsync(-1, 0)).toBe(-Errno.EBADF);
});

test.each([...NOT_WHOLE, -1])('%d is no length and no offset', (wrong) => {
  const fd = memfdCreate('godwit-test');
  ftruncate(fd, 8192);
  for (const call of [
    () => ftruncate(fd, wrong),
    () => fallocate(fd, 0, wrong, 4096),
    () => fallocate(fd, 0, 0, wrong),
    () => seekData(fd, wrong),
    () => mmap({ byteLength: wrong, flags: 0 }),
    () => munmap(4096n, wrong),
  ]) {
    expect(call).toThrow(invalid);
  }
  closeFd(fd);
});

test('a field of a struct refuses what would be another number in it', () => {
  const log = new StructBuffer(KVM_DIRTY_LOG);
  for (const value of [2 ** 32, 2 ** 32 + 5, -(2 ** 31) - 1, 1.5, Number.NaN, 2n ** 32n]) {
    expect(() => log.set('slot', value)).toThrow(invalid);
  }
  for (const value of [2n ** 64n, -(2n ** 63n) - 1n, 2 ** 53]) {
    expect(() => log.set('dirty_bitmap', value)).toThrow(invalid);
  }
  expect(log.set('slot', -1).get('slot')).toBe(0xffff_ffff);
  expect(log.set('slot', 0xffff_ffff).get('slot')).toBe(0xffff_ffff);
  expect(log.set('dirty_bitmap', -1).getBigInt('dirty_bitmap')).toBe(2n ** 64n - 1n);
  expect(log.set('dirty_bitmap', 2n ** 64n - 1n).getSigned('dirty_bitmap')).toBe(-1n);
});

test('times are rounded up to what the kernel counts in, and never to "for ever"', async () => {
  installWakeSignal();
  const timer = new SliceTimer();
  for (const milliseconds of [999.9999999, 1000, 0.5, 1234.567_891_2, 0]) timer.tickEvery(milliseconds);
  for (const milliseconds of [-1, Number.NaN, Number.POSITIVE_INFINITY]) {
    expect(() => timer.tickEvery(milliseconds)).toThrow(invalid);
  }
  timer.close();
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { fd } = (server as unknown as { _handle: { fd: number } })._handle;
  for (const milliseconds of [0.0205, 20.5, 1999.9999, 0]) setReceiveTimeout(fd, milliseconds);
  for (const milliseconds of [-1, Number.NaN]) expect(() => setReceiveTimeout(fd, milliseconds)).toThrow(invalid);
  server.close();
});

testWhen(hostSupport().kvm)('a VM has no negative addresses, and no vCPU 2^32', () => {
  const kvm = Kvm.open();
  const vm = kvm.createVm();
  const region = { slot: 0, guestPhysicalAddress: 0, byteLength: 4096, hostAddress: 0n };
  for (const wrong of [{ slot: 2 ** 32 }, { slot: -1 }, { guestPhysicalAddress: -4096 }, { byteLength: 0.5 }]) {
    expect(() => vm.setMemoryRegion({ ...region, ...wrong })).toThrow(invalid);
  }
  for (const id of [2 ** 32, -1, 0.5]) expect(() => vm.createVcpu(id)).toThrow(invalid);
  vm.close();
  kvm.close();
});
