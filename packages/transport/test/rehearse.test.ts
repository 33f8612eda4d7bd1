import { rehearse } from '@godwit/transport';
import { expect, test } from '@jest/globals';

test('a rehearsal moves its guest, once for all who ask', async () => {
  const first = rehearse();
  expect(rehearse()).toBe(first);
  await expect(first).resolves.toBeUndefined();
  expect(rehearse()).toBe(first);
});
