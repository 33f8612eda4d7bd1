// Generated from guest/sweep.S by guest/assemble.mjs. Do not edit: change the source and run that again.

/** SHA-256 of the image. */
export const SWEEP_IMAGE_SHA256 = '1476abea78e482e77ea453e09cc8dae76ef20ce56fbd100ce443cec8ea01c20d';

/** Length of the image in bytes. */
export const SWEEP_IMAGE_BYTES = 512;

/** Guest-physical addresses of the labels, for reading a vCPU's RIP. */
export const SWEEP_SYMBOLS: Readonly<Record<string, number>> = {
  _start: 0x7c00,
  first: 0x7c04,
  parameters: 0x7c04,
  end: 0x7c08,
  passes: 0x7c0c,
  begin: 0x7c10,
  protected: 0x7c2f,
  clear: 0x7c47,
  cleared: 0x7c55,
  pass: 0x7c57,
  page: 0x7c5d,
  passed: 0x7c68,
  printed: 0x7c70,
  print: 0x7c7c,
  halted: 0x7c93,
  segments: 0x7c98,
  table_of_segments: 0x7cb0,
  _edata: 0x8000,
  _end: 0x8000,
};

const BASE64 =
  '6w4AAAAAEAAAAEAGAAAAAPoxwI7Y5JIMAiT+5pIPARawfA8gwAwBDyLA6i98CABmuBAAjtiOwI7QizUEfAAAiz0IfAAAifA5+HMKxgAABQAQ' +
  'AADr8jHbifA5+HML/gAFABAAADn4cvVDsUL2wz90DDsdDHwAAHXfsUTrALr9AwAA7KggdPa6+AMAAIjI7oD5QnTd9Ov9ZpAAAAAAAAAAAP//' +
  'AAAAms8A//8AAACSzwAXAJh8AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA' +
  'AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA' +
  'AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA' +
  'AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA' +
  'AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAVao=';

/** A fresh copy of the image with the parameters of the source. */
export function sweepBytes(): Uint8Array {
  return Uint8Array.from(atob(BASE64), (character) => character.charCodeAt(0));
}
