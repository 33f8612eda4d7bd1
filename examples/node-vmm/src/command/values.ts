import { readFile } from 'node:fs/promises';
import { GodwitError, suggestion } from '@godwit/core';
import { InvalidArgumentError } from 'commander';
import { formatBytes, parseBytes } from '../demo/quantity.js';
import type { DiskChoice, NetChoice } from '../virtio/virtio-devices.js';

/**
 * Parsers of option values, for commander: each refuses a value that it cannot parse, with a message that says what is
 * expected. Files are read later.
 */

export function bytes(least = 0, most = 2 ** 42): (text: string) => number {
  return (text) => {
    const value = parseBytes(text);
    if (value === undefined) throw new InvalidArgumentError('It is a size such as 150M or 1G.');
    if (value < least || value > most) {
      throw new InvalidArgumentError(`It is from ${formatBytes(least)} to ${formatBytes(most)}.`);
    }
    return value;
  };
}

export function milliseconds(text: string): number {
  return number(0, 7 * 86_400_000)(text);
}

export function number(least: number, most: number): (text: string) => number {
  return (text) => {
    const value = text.trim() === '' ? Number.NaN : Number(text);
    if (value >= least && value <= most) return value;
    throw new InvalidArgumentError(`It is a number from ${least} to ${most}.`);
  };
}

export function integer(least: number, most: number): (text: string) => number {
  return (text) => {
    const value = number(least, most)(text);
    if (Number.isInteger(value)) return value;
    throw new InvalidArgumentError('It is a whole number.');
  };
}

/** A port for a live page. An option with an optional value takes the next word for it, whatever that is. */
export function pagePort(text: string): number {
  const port = Number(text);
  if (/^\d+$/.test(text) && port <= 65_535) return port;
  throw new InvalidArgumentError('It is a port from 0 to 65535; without one, give --page last.');
}

export function pageChannels(text: string): number | 'auto' {
  if (text === 'auto') return text;
  const near = suggestion(text, ['auto']);
  if (near !== '') throw new InvalidArgumentError(`It is a number from 0 to 64, or auto${near}`);
  return integer(0, 64)(text);
}

/** Reads the file that an option names. @throws GodwitError GODWIT_INVALID_ARGUMENT when it cannot be read */
export async function readNamed(option: string, path: string): Promise<Buffer> {
  try {
    return await readFile(path);
  } catch (error) {
    const message = `${option}: the file cannot be read: ${(error as Error).message}`;
    throw new GodwitError('GODWIT_INVALID_ARGUMENT', message, { cause: error });
  }
}

/** A file, and how it is accessed: `FILE`, with `,readonly` and `,direct` behind it or neither. */
export function disk(text: string): DiskChoice {
  const [, path, ways = ''] = /^(.*?)((?:,(?:readonly|direct))*)$/s.exec(text) ?? [];
  if (path === undefined || path === '') {
    throw new InvalidArgumentError('It is a file, such as disk.img or disk.img,readonly,direct.');
  }
  return { path, readonly: ways.includes(',readonly'), direct: ways.includes(',direct') };
}

/** A tap interface, `tap:NAME`, or a UNIX socket, and whether this side listens: `PATH` or `PATH,listen`. */
export function net(text: string): NetChoice {
  if (text.startsWith('tap:')) {
    const tap = text.slice('tap:'.length);
    if (tap === '') throw new InvalidArgumentError('It is the name of a tap interface, such as tap:tap0.');
    return { tap };
  }
  const listen = text.endsWith(',listen');
  const path = listen ? text.slice(0, -',listen'.length) : text;
  if (path === '')
    throw new InvalidArgumentError(
      'It is the path of a UNIX socket, such as net.sock or net.sock,listen, or tap:NAME.',
    );
  return { path, listen };
}
