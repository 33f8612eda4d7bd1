import {
  AccessTracker,
  attachGuestMemory,
  createGuestMemory,
  KvmDirtyLogTracker,
  KvmDirtyRingTracker,
  PagemapTracker,
} from '@godwit/linux';
import { describe, expect, test } from '@jest/globals';
import { errorOf } from './error-of.js';

/** A RAM block of one page, with further fields. */
const block = (more: object) => ({ id: 'ram', guestPhysicalAddress: 0, byteLength: 4096, ...more });
const good = block({});

describe('an option that does not exist is refused, before the kernel is asked:', () => {
  test.each<readonly [string, () => unknown, string]>([
    [
      'the tracker "pagemap"',
      () => new PagemapTracker({ ranges: [], pagesize: 1 } as never),
      'did you mean "pageSize"?',
    ],
    ['the tracker "accesses"', () => new AccessTracker({ range: [] } as never), 'did you mean "ranges"?'],
    ['KvmDirtyLogTracker', () => new KvmDirtyLogTracker({ vmFD: 3 } as never), 'did you mean "vmFd"?'],
    ['KvmDirtyRingTracker', () => new KvmDirtyRingTracker({ softLimt: 1 } as never), 'did you mean "softLimit"?'],
    [
      'createGuestMemory: blocks[1]',
      () => createGuestMemory({ blocks: [good, block({ readonly: true })] }),
      'did you mean "readOnly"?',
    ],
    [
      'createGuestMemory: blocks[0]',
      () => createGuestMemory({ blocks: [{ id: 'ram', guestPhysicalAdress: 0, byteLength: 4096 } as never] }),
      'did you mean "guestPhysicalAddress"?',
    ],
    [
      'createGuestMemory: blocks[0]',
      () => createGuestMemory({ blocks: [block({ backing: 'file' })] }),
      'it has byteLength,',
    ],
    ['attachGuestMemory', () => attachGuestMemory({ blocks: [], pagesize: 1 } as never), 'did you mean "pageSize"?'],
    [
      'attachGuestMemory: blocks[0]',
      () => attachGuestMemory({ blocks: [block({ fd: 3, fileOfset: 4096 })] }),
      'did you mean "fileOffset"?',
    ],
    [
      'attachGuestMemory: blocks[1]',
      () => attachGuestMemory({ blocks: [good, block({ fd: 3, shred: true })] }),
      'did you mean "shared"?',
    ],
  ])('%s', async (what, call, message) => {
    const { code, message: told } = await errorOf(call);
    expect({ code, told }).toEqual({
      code: 'GODWIT_INVALID_ARGUMENT',
      told: expect.stringContaining(`${what} has no option`),
    });
    expect(told).toContain(message);
  });
});

test.each<readonly [string, (blocks: unknown) => unknown]>([
  ['createGuestMemory', (blocks) => createGuestMemory({ blocks } as never)],
  ['attachGuestMemory', (blocks) => attachGuestMemory({ blocks } as never)],
])('%s refuses blocks that are no array, and a block that is no object', async (what, make) => {
  expect(await errorOf(() => make(undefined))).toMatchObject({
    code: 'GODWIT_INVALID_ARGUMENT',
    message: `${what}: blocks must be an array of RAM blocks, got undefined`,
  });
  expect(await errorOf(() => make([null]))).toMatchObject({
    code: 'GODWIT_INVALID_ARGUMENT',
    message: `${what}: blocks[0] takes an object with options, got null`,
  });
});

test('the blocks of a guest memory may be given as the layout of another one', () => {
  const first = createGuestMemory({ blocks: [{ ...good, readOnly: true }] });
  const second = createGuestMemory({ blocks: first.blocks });
  expect(second.blocks[0]).toMatchObject({ ...good, readOnly: true });
  expect(second.blocks[0]?.hostAddress).not.toBe(first.blocks[0]?.hostAddress);
  first.close();
  second.close();
});

test('a page size that is text is quoted as it was given', async () => {
  const { message } = await errorOf(() => new PagemapTracker({ ranges: [], pageSize: '50' as never }));
  expect(message).toContain("got '50', a string");
});
