import { expect, test } from '@jest/globals';
import { Letters } from '../qemu/letters.js';
import { withOpened } from '../qemu/opened.js';

test('processes are closed in reverse order when the work ends and when it fails', async () => {
  const closed: string[] = [];
  const open = async (name: string) => ({ close: async () => void closed.push(name) });
  await withOpened(60_000, async (opened) => {
    await opened.keep(open('a'));
    await opened.keep(open('b'));
  });
  expect(closed).toEqual(['b', 'a']);
  const failing = withOpened(60_000, async (opened) => {
    await opened.keep(open('c'));
    throw new Error('no');
  });
  await expect(failing).rejects.toThrow('no');
  expect(closed).toEqual(['b', 'a', 'c']);
});

test('work that does not end in time fails, and what it opens afterwards is closed too', async () => {
  let late = (_: { close(): Promise<void> }): void => {};
  const opening = new Promise<{ close(): Promise<void> }>((resolve) => {
    late = resolve;
  });
  let over = (_: unknown): void => {};
  const refused = new Promise<unknown>((resolve) => {
    over = resolve;
  });
  const work = withOpened(1, (opened) => {
    const kept = opened.keep(opening);
    kept.catch(over);
    return kept;
  });
  await expect(work).rejects.toThrow('not ended within 0.001 s');
  const closed = new Promise<void>((resolve) => late({ close: async () => resolve() }));
  await closed;
  expect(await refused).toEqual(new Error('the measurement is over'));
});

test('waiting for a letter resolves if it was printed before or is printed later, and rejects when the process ends without it', async () => {
  const letters = new Letters();
  const asked = letters.printed('B');
  letters.hear('xB');
  await asked;
  await letters.printed('x');
  const never = letters.printed('D');
  letters.fail(new Error('it ended'));
  await expect(never).rejects.toThrow('it ended');
  await expect(letters.printed('E')).rejects.toThrow('it ended');
  await letters.printed('B');
});
