import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import {
  attachGuestMemory,
  createGuestMemory,
  type GuestMemoryAttachment,
  type MappedGuestMemory,
} from '@godwit/linux';
import { closeFd, duplicateFd, memfdCreate, openFile } from '@godwit/linux/unstable';
import { afterEach, expect, test } from '@jest/globals';

const BLOCK = { id: 'ram', guestPhysicalAddress: 0, byteLength: 2 ** 20 };

const open: MappedGuestMemory[] = [];
afterEach(() => {
  for (const memory of open.splice(0)) memory.close();
});

function created(): MappedGuestMemory {
  const memory = createGuestMemory({ blocks: [BLOCK, { ...BLOCK, id: 'more', guestPhysicalAddress: 2 ** 30 }] });
  open.push(memory);
  return memory;
}

function attached(attachment: GuestMemoryAttachment): MappedGuestMemory {
  const memory = attachGuestMemory(attachment);
  open.push(memory);
  return memory;
}

const identities = (memory: MappedGuestMemory) => memory.blocks.map(({ identity }) => identity);

/** The identity of memory that another process maps by a descriptor or by a path. */
function seenElsewhere(from: string, fd: number): string {
  const script = `
    import { attachGuestMemory } from '@godwit/linux';
    import { openFile } from '@godwit/linux/unstable';
    const fd = ${from};
    console.log(attachGuestMemory({ blocks: [{ ...${JSON.stringify(BLOCK)}, fd }] }).blocks[0].identity);`;
  return execFileSync(process.execPath, ['--input-type=module', '-e', script], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit', fd],
    cwd: new URL('..', import.meta.url),
  }).trim();
}

test('names the boot, the memory file and the place in it', () => {
  const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
  for (const identity of identities(created())) {
    expect(identity).toMatch(new RegExp(`^${boot}/\\d+:\\d+\\+0$`));
    expect(identity?.length).toBeLessThanOrEqual(255);
  }
});

test('no two blocks have the same one, nor a block that comes after one that was closed', () => {
  const all = [...identities(created()), ...identities(created())];
  for (const memory of open.splice(0)) memory.close();
  all.push(...identities(created()));
  expect(new Set(all).size).toBe(6);
});

test('the same memory has the same one: by its descriptor, a copy of it, its path, and in another process', () => {
  const [block] = created().blocks;
  const fd = block?.fd as number;
  const copy = duplicateFd(fd);
  const path = `/proc/${process.pid}/fd/${fd}`;
  const again = openFile(path);
  try {
    for (const through of [fd, copy, again]) {
      expect(identities(attached({ blocks: [{ ...BLOCK, fd: through }] }))).toEqual([block?.identity]);
    }
    expect(seenElsewhere('3', copy)).toBe(block?.identity);
    expect(seenElsewhere(`openFile(${JSON.stringify(path)})`, fd)).toBe(block?.identity);
  } finally {
    closeFd(copy);
    closeFd(again);
  }
});

test('a thread that attaches by address has it too, with the descriptor that came along', () => {
  const memory = created();
  expect(identities(attached(memory.attachment()))).toEqual(identities(memory));
});

test('memory that is known by its address alone has none, and closed memory has none', () => {
  const memory = created();
  const blocks = memory.blocks.map(({ id, guestPhysicalAddress, byteLength, hostAddress }) => ({
    id,
    guestPhysicalAddress,
    byteLength,
    hostAddress,
  }));
  expect(identities(attached({ blocks }))).toEqual([undefined, undefined]);
  memory.close();
  expect(identities(memory)).toEqual([undefined, undefined]);
});

test('it stays that of the memory that is mapped, whatever becomes of the descriptor', () => {
  const memory = created();
  const copy = duplicateFd(memory.blocks[0]?.fd as number);
  const second = attached({ blocks: [{ ...BLOCK, fd: copy }] });
  closeFd(copy);
  // The kernel gives the lowest free number, so this is another file behind the same one.
  const other = memfdCreate('another');
  expect(other).toBe(copy);
  expect(identities(second)).toEqual([memory.blocks[0]?.identity]);
  closeFd(other);
});
