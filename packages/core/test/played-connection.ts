import { type Frame, GodwitError } from '@godwit/core';
import { engineParts, VirtualClock } from '@godwit/core/testing';
import { PlayedStream } from './played-stream.js';

const { Connection } = engineParts;
export type Parts = engineParts.ConnectionParts<'source'>;

export const ACK: Frame = { type: 'roundAck', round: 1, pages: 2 };
export const LOADED: Frame = { type: 'loaded', device: 0, sequence: 1 };
export const READY: Frame = { type: 'ready', attempt: 1, loadMs: 0 };
export const DEVICE: Frame = { type: 'device', device: 0, sequence: 0, last: true, attempt: 1 };
export const errorFrame = (code: string, retry = false): Frame => ({
  type: 'error',
  code,
  message: 'out of luck',
  retry,
});
export const lost = (message = 'cut') => new GodwitError('GODWIT_LINK_LOST', message);
export const failed = () => new GodwitError('GODWIT_VM_FAILED', 'it would not pause');

/** Makes a connection of a source over a played control stream. */
export function connect(parts: Partial<Parts> = {}) {
  const clock = new VirtualClock();
  const control = new PlayedStream();
  const handled: string[] = [];
  const connection = new Connection<'source'>({
    role: 'source',
    clock,
    control,
    peer: 'played',
    phase: () => 'pre-copy',
    handle: ({ frame }) => void handled.push(frame.type),
    ...parts,
  });
  return { clock, control, connection, handled };
}
