import { systemClock } from '@godwit/core';
import { engineParts } from '@godwit/core/testing';
import { afterEach, describe, expect, test } from '@jest/globals';

const { processorTime, processorTimeSince } = engineParts;

describe('the processor time of a thread', () => {
  const { getBuiltinModule } = process;

  afterEach(() => {
    process.getBuiltinModule = getBuiltinModule;
  });

  /** Lets the file of the scheduler have this text. */
  function reads(text: () => string): string[] {
    const paths: string[] = [];
    const readFileSync = (path: string): string => {
      paths.push(path);
      return text();
    };
    process.getBuiltinModule = (() => ({ readFileSync })) as unknown as typeof getBuiltinModule;
    return paths;
  }

  test('grows by what the thread does, and never shrinks', () => {
    const before = systemClock.processorTime?.();
    if (before === undefined) throw new Error('this kernel does not tell the processor time of a thread');
    let time = processorTimeSince(before, before);
    expect(time).toEqual({ threads: 1, ranMs: 0, waitedMs: 0 });
    // The kernel counts at every switch and tick.
    for (let sum = 1; time.ranMs < 20; sum++) {
      Math.sqrt(sum);
      if (sum % 100_000 === 0) time = processorTimeSince(before, processorTime() ?? before);
    }
    expect(time.waitedMs).toBeGreaterThanOrEqual(0);
  });

  test('is read of the calling thread, in nanoseconds', () => {
    const paths = reads(() => '2500000 1250000 7\n');
    expect(processorTime()).toEqual({ ranMs: 2.5, waitedMs: 1.25 });
    expect(paths).toEqual(['/proc/thread-self/schedstat']);
  });

  test.each(['', 'none', '12', '1 x 3', '-1 5 2'])('is not known where the system says "%s"', (text) => {
    reads(() => text);
    expect(processorTime()).toBeUndefined();
  });

  test('is not known without that file, nor before Node has this way to it', () => {
    reads(() => {
      throw new Error('ENOENT');
    });
    expect(processorTime()).toBeUndefined();
    process.getBuiltinModule = undefined as unknown as typeof getBuiltinModule;
    expect(processorTime()).toBeUndefined();
  });
});
