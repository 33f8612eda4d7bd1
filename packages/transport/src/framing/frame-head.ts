/**
 * The bytes of a frame up to the contents of its payload: the header's length, the header and, for a type with a payload,
 * the start of the `bin 32`. `payloadBytes` is `undefined` for a type without.
 */
export function frameHead(header: Uint8Array, payloadBytes: number | undefined): Uint8Array {
  const head = new Uint8Array(header.length + (payloadBytes === undefined ? 5 : 10));
  putLength(head, 0, 0xce, header.length);
  head.set(header, 5);
  if (payloadBytes !== undefined) putLength(head, header.length + 5, 0xc6, payloadBytes);
  return head;
}

function putLength(bytes: Uint8Array, at: number, type: number, length: number): void {
  bytes[at] = type;
  bytes[at + 1] = length >>> 24;
  bytes[at + 2] = (length >>> 16) & 0xff;
  bytes[at + 3] = (length >>> 8) & 0xff;
  bytes[at + 4] = length & 0xff;
}
