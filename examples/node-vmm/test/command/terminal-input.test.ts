import { PassThrough } from 'node:stream';
import { expect, test } from '@jest/globals';
import { type Input, typeFrom } from '../../dist/command/terminal-input.js';

/** A stream in place of a pipe, or of a terminal whose modes are recorded. */
function made(isTTY: boolean) {
  const stream = new PassThrough();
  const modes: boolean[] = [];
  const input = Object.assign(stream, { isTTY, setRawMode: (raw: boolean) => modes.push(raw) }) as unknown as Input;
  const typed: string[] = [];
  let left = 0;
  const giveBack = typeFrom(
    input,
    (bytes) => typed.push(Buffer.from(bytes).toString('latin1')),
    () => {
      left++;
    },
  );
  return { stream, modes, typed, left: () => left, giveBack };
}

test('a terminal is in raw mode until its mode is restored: Ctrl-C goes to the guest, and Ctrl-] ends the command', () => {
  const { stream, modes, typed, left, giveBack } = made(true);
  stream.write('ls\r');
  stream.write('\x03');
  expect([typed, left(), modes]).toEqual([['ls\r', '\x03'], 0, [true]]);
  stream.write('\x1d');
  expect([typed.length, left()]).toEqual([2, 1]);
  giveBack();
  stream.write('x');
  expect([typed.length, modes]).toEqual([2, [true, false]]);
});

test('the bytes of a pipe go to the guest unchanged, and the end or an error of the pipe is ignored', () => {
  const { stream, modes, typed, left } = made(false);
  stream.write('a\x1db');
  stream.emit('error', new Error('EIO'));
  stream.end();
  expect([typed, left(), modes]).toEqual([['a\x1db'], 0, []]);
});
