import { afterEach } from '@jest/globals';

/** Returns a function that takes what is to be closed after the test, the last one first, and returns it. */
export function closingAfterEach(): <T extends AsyncDisposable>(value: T) => T {
  const open: AsyncDisposable[] = [];
  afterEach(async () => {
    while (open.length > 0) await open.pop()?.[Symbol.asyncDispose]();
  });
  return (value) => {
    open.push(value);
    return value;
  };
}
