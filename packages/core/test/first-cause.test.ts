import { GodwitError } from '@godwit/core';
import { engineParts } from '@godwit/core/testing';
import { expect, test } from '@jest/globals';
import fc from 'fast-check';

const { FirstCause } = engineParts;
const error = (message: string) => new GodwitError('GODWIT_VM_FAILED', message);

test('there is no cause before the end', () => {
  const end = new FirstCause();
  expect([end.cause, end.signal.aborted]).toEqual([undefined, false]);
});

test('the first cause counts, whatever comes after it, and every caller is told which it was', () => {
  fc.assert(
    fc.property(fc.array(fc.string(), { minLength: 1 }), (messages) => {
      const end = new FirstCause();
      const errors = messages.map(error);
      const counted = errors.map((one) => end.set(one));
      for (const cause of [...counted, end.cause, end.signal.reason]) expect(cause).toBe(errors[0]);
    }),
  );
});

test('whoever follows the signal knows the cause in the same tick, once; a cause that a listener sets is not the first', () => {
  const end = new FirstCause();
  const heard: unknown[] = [];
  const [first, second] = [error('first'), error('second')];
  end.signal.addEventListener('abort', () => heard.push(end.cause, end.set(second)));
  end.set(first);
  end.set(second);
  expect(heard).toEqual([first, first]);
});

test('the signal is one object, before the end and after it', () => {
  const end = new FirstCause();
  const { signal } = end;
  end.set(error('over'));
  expect(end.signal).toBe(signal);
});
