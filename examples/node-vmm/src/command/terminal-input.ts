import type { ReadStream } from 'node:tty';

/** Ctrl-] on a terminal, as telnet and virsh have it: all other keys are the guest's. */
const LEAVE = 0x1d;

/** Whatever this process is given to read: a terminal, a pipe, a file. */
export type Input = Pick<ReadStream, 'isTTY' | 'setRawMode' | 'on' | 'off' | 'pause' | 'resume'>;

/**
 * Types what comes from a terminal at the guest's console, key by key, or what comes from a pipe. Its end ends nothing.
 *
 * @param leave called for Ctrl-] on a terminal
 * @returns gives the terminal back
 */
export function typeFrom(input: Input, type: (bytes: Uint8Array) => void, leave: () => void): () => void {
  const onData = (bytes: Uint8Array): void => {
    const left = input.isTTY ? bytes.indexOf(LEAVE) : -1;
    if (left >= 0) leave();
    else type(bytes);
  };
  // A terminal that has gone types nothing more.
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
