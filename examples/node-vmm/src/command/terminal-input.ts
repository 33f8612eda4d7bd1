import type { ReadStream } from 'node:tty';

/** The byte of Ctrl-], which telnet and virsh use too: on a terminal it ends the command. All other keys go to the guest. */
const LEAVE = 0x1d;

/** Standard input: a terminal, a pipe or a file. */
export type Input = Pick<ReadStream, 'isTTY' | 'setRawMode' | 'on' | 'off' | 'pause' | 'resume'>;

/**
 * Passes what `input` delivers to the guest's console: each key at once from a terminal, pieces from a pipe or a file. The end of `input`
 * is ignored.
 *
 * @param leave called for Ctrl-] on a terminal
 * @returns a function that stops reading, and restores the terminal's mode
 */
export function typeFrom(input: Input, type: (bytes: Uint8Array) => void, leave: () => void): () => void {
  const onData = (bytes: Uint8Array): void => {
    const left = input.isTTY ? bytes.indexOf(LEAVE) : -1;
    if (left >= 0) leave();
    else type(bytes);
  };
  // A read error means that the terminal has gone: the guest runs on without input.
  const onError = (): void => {};
  if (input.isTTY) input.setRawMode(true);
  input.on('data', onData);
  input.on('error', onError);
  input.resume();
  return () => {
    input.off('data', onData);
    input.off('error', onError);
    if (input.isTTY) input.setRawMode(false);
    input.pause();
  };
}
