import { GodwitError } from '../errors.js';
import type { PageEncoding } from './page-encoding.js';

/** The most bytes of state that all decoders of one connection may keep together. */
const MOST_STATE_BYTES = 2 ** 30;

/** Throws `GODWIT_LIMIT_EXCEEDED` when the decoders of this many page channels would keep more than is allowed. */
export function checkDecoderState(encodings: readonly PageEncoding[], pageChannels: number): void {
  const channels = Math.max(1, pageChannels);
  const streams = encodings.filter((one) => one.kind === 'stream');
  const bytes = streams.reduce((sum, { stateBytes }) => sum + stateBytes, 0) * channels;
  if (bytes <= MOST_STATE_BYTES) return;
  const names = streams.map(({ name }) => `"${name}"`);
  throw new GodwitError(
    'GODWIT_LIMIT_EXCEEDED',
    `the encodings ${names.join(', ')} keep ${bytes} bytes for ${channels} page channels, and at most ${MOST_STATE_BYTES} are kept: ` +
      'use fewer page channels, or encodings with a smaller stateBytes',
  );
}
