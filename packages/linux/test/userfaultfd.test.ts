import { spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync, writeSync } from 'node:fs';
import { setImmediate } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { hostSupport, type UserfaultEvent, Userfaultfd } from '@godwit/linux';
import { closeFd, Errno, eventfd, MapFlags, mmap, munmap, Uffd, UffdRangeOperation } from '@godwit/linux/unstable';
import { afterAll, afterEach, beforeAll, expect, test } from '@jest/globals';
import { errorOf } from './error-of.js';
import { type Kind, MissingMemory } from './missing-memory.js';
import { testWhen } from './when-usable.js';

const { userfaultfdKernelFaults } = hostSupport();
const testFaults = testWhen(userfaultfdKernelFaults);
const {
  UFFDIO_REGISTER_MODE_MISSING: MISSING,
  UFFDIO_REGISTER_MODE_MINOR: MINOR,
  UFFDIO_REGISTER_MODE_WP: WP,
  UFFD_FEATURE_THREAD_ID: THREAD_ID,
} = Uffd;

const HUGE_PAGES = '/proc/sys/vm/nr_hugepages';
/** Pages of 2 MiB that the tests need: reserved for them, and given back, where the host has fewer to spare. */
const NEEDED = 4;
let reserved: string | undefined;
beforeAll(() => {
  if (freeHugePages() >= NEEDED) return;
  reserved = readFileSync(HUGE_PAGES, 'utf8').trim();
  try {
    writeFileSync(HUGE_PAGES, String(Number(reserved) + NEEDED));
  } catch {
    // Not our host: the test of huge pages says so.
    reserved = undefined;
  }
});
afterAll(() => {
  if (reserved !== undefined) writeFileSync(HUGE_PAGES, reserved);
});

function freeHugePages(): number {
  return Number(/^HugePages_Free:\s+(\d+)$/m.exec(readFileSync('/proc/meminfo', 'utf8'))?.[1] ?? 0);
}

const open: MissingMemory[] = [];
afterEach(async () => {
  for (const memory of open.splice(0)) await memory.close();
});

function missing(kind: Kind, pages: number, mode: number = MISSING, features = 0): MissingMemory {
  const memory = new MissingMemory(kind, pages, mode, features);
  open.push(memory);
  return memory;
}

async function appearsWhole(kind: Kind): Promise<void> {
  const memory = missing(kind, 3, MISSING, THREAD_ID);
  const { uffd, pageSize } = memory;
  const reader = await memory.toucher();
  const writer = await memory.toucher();
  const offset = pageSize + 17;
  const loaded = reader.touch({ do: 'load', offset });
  expect(await memory.events()).toEqual([
    { type: 'page-fault', address: memory.at(1), write: false, kind: 'missing', thread: reader.thread },
  ]);
  const stored = writer.touch({ do: 'store', offset: 2 * pageSize, value: 9 });
  expect(await memory.events()).toEqual([
    { type: 'page-fault', address: memory.at(2), write: true, kind: 'missing', thread: writer.thread },
  ]);
  expect(uffd.copy(memory.at(1), memory.pageOf(0xab), pageSize)).toBe(pageSize);
  expect(uffd.errno).toBe(0);
  expect(await loaded).toBe(0xab);
  expect(uffd.copy(memory.at(2), memory.pageOf(0xcd), pageSize)).toBe(pageSize);
  await stored;
  const seen = memory.view().subarray(pageSize);
  expect([seen[0], seen[pageSize - 1], seen[pageSize], seen[pageSize + 1], seen[2 * pageSize - 1]]).toEqual([
    0xab, 0xab, 9, 0xcd, 0xcd,
  ]);
  // What came late is dropped: it would overwrite what was written meanwhile.
  expect(uffd.copy(memory.at(2), memory.pageOf(0xee), pageSize)).toBe(0);
  expect(uffd.errno).toBe(Errno.EEXIST);
  expect(seen[pageSize]).toBe(9);
}

testFaults('a missing page is reported with its thread and appears whole: memory files', () => appearsWhole('memfd'));
testFaults('a missing page is reported with its thread and appears whole: anonymous memory', () =>
  appearsWhole('anonymous'),
);
testFaults('a missing page is reported with its thread and appears whole: huge pages', async () => {
  if (freeHugePages() < NEEDED) {
    throw new Error(
      `the host has no ${NEEDED} pages of 2 MiB to spare: reserve them with sysctl vm.nr_hugepages=${NEEDED}`,
    );
  }
  await appearsWhole('huge pages');
});

testFaults('the operations say how many bytes were done, and why the rest was not', async () => {
  const memory = missing('memfd', 8);
  const { uffd } = memory;
  const from = Number(mmap({ byteLength: 8 * 4096, flags: MapFlags.MAP_PRIVATE | MapFlags.MAP_ANONYMOUS }));
  expect(uffd.copy(memory.at(3), from, 4096)).toBe(4096);
  expect(uffd.copy(memory.at(0), from, 8 * 4096)).toBe(3 * 4096);
  expect(uffd.errno).toBe(Errno.EEXIST);
  expect(uffd.failure()).toMatchObject({
    code: 'GODWIT_SYSCALL',
    syscall: 'UFFDIO_COPY',
    errnoName: 'EEXIST',
    message: `UFFDIO_COPY of 32768 bytes at 0x${memory.address.toString(16)}, stopped after 12288 bytes, failed: EEXIST (file already exists); the next page is there already`,
  });
  expect(uffd.zero(memory.at(4), 2 * 4096)).toBe(2 * 4096);
  expect(uffd.errno).toBe(0);
  expect(uffd.zero(memory.at(4), 4096)).toBe(0);
  expect(uffd.errno).toBe(Errno.EEXIST);
  // The second page of the bytes cannot be read.
  munmap(BigInt(from + 4096), 7 * 4096);
  expect(uffd.copy(memory.at(6), from, 2 * 4096)).toBe(4096);
  expect(uffd.errno).toBe(Errno.EFAULT);
  expect(uffd.copy(memory.at(6) + 1, from, 4096)).toBe(0);
  expect(uffd.errno).toBe(Errno.EINVAL);
  // A result of the call before is none of this one's.
  expect(uffd.copy(memory.at(7), from, 4096)).toBe(4096);
  expect(uffd.copy(memory.at(7) + 1, from, 4096)).toBe(0);
  uffd.unregister(BigInt(memory.at(7)), 4096);
  expect(uffd.copy(memory.at(7), from, 4096)).toBe(0);
  expect(uffd.errno).toBe(Errno.ENOENT);
  expect(uffd.failure().message).toContain('not registered with this userfaultfd');
  munmap(BigInt(from), 4096);
});

testFaults('what can be done with a range is said when it is registered', () => {
  const memory = missing('memfd', 1, 0);
  const { _UFFDIO_COPY, _UFFDIO_ZEROPAGE, _UFFDIO_CONTINUE } = UffdRangeOperation;
  const missingOnly = memory.uffd.register(BigInt(memory.address), 4096, MISSING);
  expect(missingOnly & (1 << _UFFDIO_COPY)).not.toBe(0);
  expect(missingOnly & (1 << _UFFDIO_ZEROPAGE)).not.toBe(0);
  expect(missingOnly & (1 << _UFFDIO_CONTINUE)).toBe(0);
  const both = memory.uffd.register(BigInt(memory.address), 4096, MISSING | MINOR);
  expect(both & (1 << _UFFDIO_CONTINUE)).not.toBe(0);
});

testFaults('a page that is in the file and not in the mapping is proceeded with: mode MINOR', async () => {
  const memory = missing('memfd', 2, MINOR, Uffd.UFFD_FEATURE_MINOR_SHMEM);
  const { uffd } = memory;
  const reader = await memory.toucher();
  expect(uffd.proceed(memory.address, 4096)).toBe(0);
  expect(uffd.errno).toBe(Errno.EFAULT);
  writeSync(memory.fd, Buffer.alloc(4096, 0x77), 0, 4096, 4096);
  const loaded = reader.touch({ do: 'load', offset: 5000 });
  expect(await memory.events()).toEqual([
    { type: 'page-fault', address: memory.at(1), write: false, kind: 'minor', thread: 0 },
  ]);
  expect(uffd.proceed(memory.at(1), 4096)).toBe(4096);
  expect(await loaded).toBe(0x77);
});

testFaults('who waits sleeps on until it is woken, if it is told to', async () => {
  const memory = missing('memfd', 1);
  const { uffd } = memory;
  const reader = await memory.toucher();
  let answered = false;
  const loaded = reader.touch({ do: 'load', offset: 0 }).then((value) => {
    answered = true;
    return value;
  });
  await memory.events();
  expect(uffd.copy(memory.address, memory.pageOf(5), 4096, { keepAsleep: true })).toBe(4096);
  for (let turn = 0; turn < 200; turn++) await setImmediate();
  expect(answered).toBe(false);
  expect(uffd.wake(memory.address, 4096)).toBe(4096);
  expect(await loaded).toBe(5);
});

testFaults('a write to a protected page is reported, and waits, and is done once it may be', async () => {
  const memory = missing('memfd', 2, WP, Uffd.UFFD_FEATURE_PAGEFAULT_FLAG_WP | Uffd.UFFD_FEATURE_WP_HUGETLBFS_SHMEM);
  const { uffd } = memory;
  memory.view().fill(1);
  expect(uffd.writeProtect(memory.address, memory.byteLength, true)).toBe(memory.byteLength);
  const writer = await memory.toucher();
  expect(await writer.touch({ do: 'load', offset: 4096 })).toBe(1);
  const stored = writer.touch({ do: 'store', offset: 4096, value: 2 });
  expect(await memory.events()).toEqual([
    { type: 'page-fault', address: memory.at(1), write: true, kind: 'write-protected', thread: 0 },
  ]);
  expect(memory.view()[4096]).toBe(1);
  expect(uffd.writeProtect(memory.at(1), 4096, false)).toBe(4096);
  await stored;
  expect(memory.view()[4096]).toBe(2);
  uffd.unregister(BigInt(memory.at(1)), 4096);
  expect(uffd.writeProtect(memory.address, memory.byteLength, true)).toBe(0);
  expect(uffd.errno).toBe(Errno.ENOENT);
});

testFaults('a poisoned page gives an error to system calls and SIGBUS to threads, never zeros', async () => {
  const memory = missing('memfd', 2);
  const counter = eventfd(1);
  const writer = await memory.toucher();
  const read = writer.touch({ do: 'read', fd: counter, offset: 4096, length: 8 });
  await memory.events();
  expect(memory.uffd.poison(memory.at(0), 2 * 4096)).toBe(2 * 4096);
  expect(await read).toBe(-Errno.EFAULT);
  // A page that comes after all takes the place of the poison.
  expect(memory.uffd.copy(memory.at(1), memory.pageOf(1), 4096)).toBe(4096);
  expect(memory.view()[4096]).toBe(1);
  closeFd(counter);
  const child = spawnSync(process.execPath, [fileURLToPath(new URL('./workers/poisoned-reader.js', import.meta.url))]);
  expect({ signal: child.signal, printed: child.stdout.toString() }).toEqual({
    signal: 'SIGBUS',
    printed: 'reading\n',
  });
});

testFaults('changes of the mapping are reported, and until they are read nothing is put there', async () => {
  const features = Uffd.UFFD_FEATURE_EVENT_REMOVE | Uffd.UFFD_FEATURE_EVENT_UNMAP | Uffd.UFFD_FEATURE_EVENT_REMAP;
  const memory = missing('anonymous', 8, MISSING, features);
  const { uffd } = memory;
  expect(uffd.zero(memory.at(0), 2 * 4096)).toBe(2 * 4096);
  const changer = await memory.toucher();
  const given = changer.touch({ do: 'give back', offset: 0, length: 4096 });
  // Until the thread gets there the page is just there already; then the change is under way, and its event is not read yet.
  for (uffd.zero(memory.at(1), 4096); uffd.errno === Errno.EEXIST; uffd.zero(memory.at(1), 4096)) await setImmediate();
  expect(uffd.errno).toBe(Errno.EAGAIN);
  expect(uffd.failure().message).toContain('stopped after 0 bytes');
  expect(await memory.events()).toEqual([{ type: 'remove', start: memory.at(0), end: memory.at(1) }]);
  await given;
  const place = mmap({ byteLength: 4096, flags: MapFlags.MAP_PRIVATE | MapFlags.MAP_ANONYMOUS });
  const moved = changer.touch({ do: 'move', offset: 5 * 4096, length: 4096, to: place });
  let arrived = false;
  void moved.then(() => {
    arrived = true;
  });
  const events: UserfaultEvent[] = [];
  for (; !arrived; await setImmediate()) {
    for (let i = memory.messages.read() - 1; i >= 0; i--) events.push(memory.messages.event(i));
  }
  expect(events[0]).toEqual({ type: 'remap', from: memory.at(5), to: Number(place), byteLength: 4096 });
  expect(await moved).toBe(Number(place));
  const unmapped = changer.touch({ do: 'unmap', offset: 7 * 4096, length: 4096 });
  expect(await memory.events()).toEqual([{ type: 'unmap', start: memory.at(7), end: memory.at(8) }]);
  await unmapped;
  // It is still registered there: this thread would wait for itself to read the event.
  open.splice(open.indexOf(memory), 1);
  await memory.close();
  munmap(place, 4096);
});

test('a feature that the kernel lacks is refused by name, and one that is only wanted is left out', async () => {
  const unknown = 2 ** 30;
  expect(await errorOf(() => Userfaultfd.open(unknown | Uffd.UFFD_FEATURE_POISON))).toMatchObject({
    code: 'GODWIT_UNSUPPORTED',
    // Of the two only what is lacking is named, and nobody has given that bit a name yet.
    message: expect.stringMatching(/features 0x40004000 .*one lacks \(nothing that it has a name for\)/),
  });
  const uffd = Userfaultfd.open(Uffd.UFFD_FEATURE_MISSING_SHMEM, unknown | Uffd.UFFD_FEATURE_THREAD_ID);
  expect(uffd.features).toBe(Uffd.UFFD_FEATURE_MISSING_SHMEM | Uffd.UFFD_FEATURE_THREAD_ID);
  expect(Userfaultfd.available() & uffd.features).toBe(uffd.features);
  const same = Userfaultfd.attach(uffd.fd);
  same.close();
  expect(await errorOf(() => same.copy(0, 0, 4096))).toMatchObject({ code: 'GODWIT_INVALID_STATE' });
  expect(uffd.zero(4096, 4096)).toBe(0);
  expect(uffd.errno).toBe(Errno.ENOENT);
  uffd.close();
  expect(await errorOf(() => uffd.zero(4096, 4096))).toMatchObject({ code: 'GODWIT_INVALID_STATE' });
});
