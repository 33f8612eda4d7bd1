import { afterEach } from '@jest/globals';

/** Something that a test makes, which is closed after it. */
interface Closed {
  close(): Promise<void>;
}

/** Returns a function that has what it is given closed after the test, and returns it. Called once, at the top of a test file. */
export function closedAfterEach(): <M extends Closed>(made: M) => M {
  const all: Closed[] = [];
  afterEach(async () => {
    await Promise.all(all.splice(0).map((one) => one.close()));
  });
  return (made) => {
    all.push(made);
    return made;
  };
}
