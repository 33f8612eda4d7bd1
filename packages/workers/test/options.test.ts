import { connectTo, memory } from '@godwit/transport';
import { channelThreads, onWorkers } from '@godwit/workers';
import { expect, test } from '@jest/globals';

test('an option that does not exist, or a number that is none, is refused before a thread is started', () => {
  expect(() => onWorkers(connectTo(memory()), { thread: 2 } as never)).toThrow(
    'onWorkers has no option "thread"; did you mean "threads"?',
  );
  expect(() => onWorkers(connectTo(memory()), { threads: '2' as never })).toThrow(
    "threads must be a number of at least 0, got '2', a string",
  );
  expect(() => channelThreads(-1)).toThrow('count must be a number of at least 0, got -1');
});
