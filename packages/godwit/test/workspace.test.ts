import { expect, test } from '@jest/globals';

test('godwit is the engine and its transports, and Linux where that is asked for', async () => {
  const { inspectRecording, inspectSnapshot, ...everything } = await import('godwit');
  expect([typeof inspectRecording, typeof inspectSnapshot]).toEqual(['function', 'function']);
  expect(everything).toEqual({ ...(await import('@godwit/core')), ...(await import('@godwit/transport')) });
  const { reportRecording, ...observe } = await import('godwit/observe');
  expect(typeof reportRecording).toBe('function');
  expect(observe).toEqual({ ...(await import('@godwit/observe')) });
  expect({ ...(await import('godwit/vfio')) }).toEqual({ ...(await import('@godwit/vfio')) });
  expect({ ...(await import('godwit/workers')) }).toEqual({ ...(await import('@godwit/workers')) });
  expect({ ...(await import('godwit/linux')) }).toEqual({ ...(await import('@godwit/linux')) });
});
