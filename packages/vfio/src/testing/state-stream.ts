import { StateHeaderReader, stateHeader } from '../migration/state-header.js';
import { RECORD_BYTES, RecordKind, RecordReader, writeRecordHead } from '../migration/state-records.js';

/**
 * Makes a stream of state with these bytes of the device.
 *
 * @example
 * await device.load(oneChunk(framedState('pci:1:2', Uint8Array.of(1, 2, 3))), 1);
 */
export function framedState(kind: string, bytes: Uint8Array): Uint8Array {
  const head = new Uint8Array(RECORD_BYTES);
  writeRecordHead(head, RecordKind.DATA, bytes.byteLength);
  return Uint8Array.of(...stateHeader(kind), ...head, ...bytes);
}

/**
 * Returns the device's own bytes of a stream of state.
 *
 * @example
 * expect(deviceBytes('pci:1:2', saved)).toEqual(Uint8Array.of(1, 2, 3));
 */
export function deviceBytes(kind: string, stream: Uint8Array): Uint8Array {
  const own: number[] = [];
  for (const part of new RecordReader().take(new StateHeaderReader(kind).take(stream))) {
    if (part === 'from the beginning') own.length = 0;
    else own.push(...part);
  }
  return Uint8Array.from(own);
}
