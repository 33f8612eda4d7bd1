import { SoftwareTracker } from '@godwit/core';
import { rehearse } from '@godwit/transport';
import { expect, jest, test } from '@jest/globals';

test('a rehearsal is a migration from its first round to its end, once for all who ask', async () => {
  const calls = (['start', 'harvest', 'stop'] as const).map((name) => jest.spyOn(SoftwareTracker.prototype, name));
  const first = rehearse();
  expect(rehearse()).toBe(first);
  await expect(first).resolves.toBeUndefined();
  const counts = calls.map((call) => call.mock.calls.length);
  expect(counts.every((count) => count > 0)).toBe(true);
  expect(rehearse()).toBe(first);
  await first;
  expect(calls.map((call) => call.mock.calls.length)).toEqual(counts);
  for (const call of calls) call.mockRestore();
});
