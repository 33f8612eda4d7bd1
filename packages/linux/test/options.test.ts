import { AccessTracker, KvmDirtyLogTracker, KvmDirtyRingTracker, PagemapTracker } from '@godwit/linux';
import { describe, expect, test } from '@jest/globals';
import { errorOf } from './error-of.js';

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
  ])('%s', async (what, call, message) => {
    const { code, message: told } = await errorOf(call);
    expect({ code, told }).toEqual({
      code: 'GODWIT_INVALID_ARGUMENT',
      told: expect.stringContaining(`${what} has no option`),
    });
    expect(told).toContain(message);
  });
});

test('a page size that is text is quoted as it was given', async () => {
  const { message } = await errorOf(() => new PagemapTracker({ ranges: [], pageSize: '50' as never }));
  expect(message).toContain("got '50', a string");
});
