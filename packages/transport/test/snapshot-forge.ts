/** Reads and makes snapshot files as docs/snapshot-format.md describes them, with nothing of the implementation. */
import { createHash } from 'node:crypto';
import { Packr } from 'msgpackr';

const packr = new Packr({ useRecords: false, variableMapSize: true, int64AsType: 'number' });

/** The elements of the metadata, in their order. */
export interface Forged {
  hello: unknown[];
  blockOffsets: number[];
  presentPages: number[];
  indexOffset: number;
  indexSha256: Uint8Array;
  pieces: [device: number, offset: number, byteLength: number, sha256: Uint8Array][];
  /** Snapshots of before there were run states end with the pieces. */
  runState?: unknown;
  /** Snapshots of before there was a checksum of the bitmaps end with the run state. */
  bitmapsSha256?: Uint8Array | undefined;
  /** Snapshots that were saved without a working set end with the checksum of the bitmaps. */
  workingSet?: { readonly offset: number; readonly sha256: Uint8Array } | undefined;
}

export interface ForgedHeader {
  version: number;
  fileBytes: number;
  metadataOffset: number;
  metadataBytes: number;
}

export function sha256(bytes: Uint8Array): Uint8Array {
  return Uint8Array.from(createHash('sha256').update(bytes).digest());
}

export function readHeader(file: Buffer): ForgedHeader {
  return {
    version: file.readUInt32BE(16),
    fileBytes: Number(file.readBigUInt64BE(24)),
    metadataOffset: Number(file.readBigUInt64BE(32)),
    metadataBytes: Number(file.readBigUInt64BE(40)),
  };
}

export function readMetadata(file: Buffer): Forged {
  const { metadataOffset } = readHeader(file);
  const fields = packr.unpack(Uint8Array.from(file.subarray(metadataOffset))) as unknown[];
  const [hello, blockOffsets, presentPages, indexOffset, indexSha256, pieces, runState, bitmapsSha256, ...more] =
    fields;
  return {
    hello: packr.unpack(hello as Uint8Array) as unknown[],
    blockOffsets: blockOffsets as number[],
    presentPages: presentPages as number[],
    indexOffset: Number(indexOffset),
    indexSha256: Uint8Array.from(indexSha256 as Uint8Array),
    pieces: (pieces as Forged['pieces']).map(([a, b, c, d]) => [a, b, c, Uint8Array.from(d)]),
    runState,
    bitmapsSha256: bitmapsSha256 === undefined ? undefined : Uint8Array.from(bitmapsSha256 as Uint8Array),
    workingSet:
      more.length === 0 ? undefined : { offset: Number(more[0]), sha256: Uint8Array.from(more[1] as Uint8Array) },
  };
}

/** The same file with other metadata and a header, both with the right checksums. */
export function forge(file: Buffer, metadata: Forged, header: Partial<ForgedHeader> = {}): Buffer {
  const { metadataOffset } = readHeader(file);
  const packed = packr.pack([
    packr.pack(metadata.hello),
    metadata.blockOffsets.map(exact),
    metadata.presentPages.map(exact),
    exact(metadata.indexOffset),
    metadata.indexSha256,
    metadata.pieces.map((piece) => piece.map((value) => (typeof value === 'number' ? exact(value) : value))),
    ...(metadata.runState === undefined ? [] : [metadata.runState]),
    ...(metadata.bitmapsSha256 === undefined ? [] : [metadata.bitmapsSha256]),
    ...(metadata.workingSet === undefined ? [] : [exact(metadata.workingSet.offset), metadata.workingSet.sha256]),
  ]);
  const made = Buffer.concat([file.subarray(0, metadataOffset), packed]);
  const fields = {
    version: 1,
    fileBytes: made.length,
    metadataOffset,
    metadataBytes: packed.length,
    ...header,
  };
  made.writeUInt32BE(fields.version, 16);
  made.writeBigUInt64BE(BigInt(fields.fileBytes), 24);
  made.writeBigUInt64BE(BigInt(fields.metadataOffset), 32);
  made.writeBigUInt64BE(BigInt(fields.metadataBytes), 40);
  made.set(sha256(packed), 48);
  made.set(sha256(made.subarray(0, 80)), 80);
  return made;
}

/** Numbers beyond 32 bits as integers: msgpackr would write floating point. */
function exact(value: number): number | bigint {
  return value > 0xffffffff ? BigInt(value) : value;
}

/** The guest's RAM, block by block, and its devices' state; throws when a checksum is wrong. */
export function readSnapshot(file: Buffer): {
  readonly ram: Buffer[];
  readonly devices: Map<string, Buffer>;
  readonly runState: unknown;
} {
  if (file.toString('latin1', 0, 16) !== 'godwit snapshot\n') throw new Error('no snapshot');
  const { fileBytes, metadataOffset, metadataBytes } = readHeader(file);
  const equal = (what: string, got: Uint8Array, wanted: Uint8Array): void => {
    if (!Buffer.from(got).equals(wanted)) throw new Error(`the checksum of the ${what} is wrong`);
  };
  equal('header', file.subarray(80, 112), sha256(file.subarray(0, 80)));
  if (fileBytes !== file.length || metadataOffset + metadataBytes !== fileBytes) throw new Error('wrong length');
  equal('metadata', file.subarray(48, 80), sha256(file.subarray(metadataOffset)));
  const metadata = readMetadata(file);
  const { hello, blockOffsets, presentPages, indexOffset, indexSha256, pieces, runState, bitmapsSha256 } = metadata;
  const bitmaps: Buffer[] = [];
  equal('index', indexSha256, sha256(file.subarray(indexOffset, metadataOffset)));

  const pageSize = Number(hello[5]);
  let at = indexOffset;
  const ram = (hello[6] as [string, number, number][]).map(([, , length], block) => {
    const byteLength = Number(length);
    const bytes = Buffer.alloc(byteLength);
    const pages = byteLength / pageSize;
    const bitmap = file.subarray(at, at + Math.ceil(pages / 64) * 8);
    at += bitmap.length;
    bitmaps.push(bitmap);
    let present = 0;
    for (let page = 0; page < bitmap.length * 8; page++) {
      if (((bitmap[page >> 3] as number) & (1 << (page % 8))) === 0) continue;
      if (page >= pages) throw new Error('a bit past the last page');
      const from = (blockOffsets[block] as number) + page * pageSize;
      const contents = file.subarray(from, from + pageSize);
      equal(`page ${page}`, digest(contents), file.subarray(at, at + 8));
      at += 8;
      present++;
      contents.copy(bytes, page * pageSize);
    }
    if (present !== presentPages[block]) throw new Error('the count of pages is wrong');
    return bytes;
  });
  if (at !== metadataOffset) throw new Error('the index has another length');
  if (bitmapsSha256 !== undefined) equal('bitmaps', bitmapsSha256, sha256(Buffer.concat(bitmaps)));

  const devices = new Map((hello[7] as [string, number][]).map(([id]) => [id, Buffer.alloc(0)]));
  for (const [device, offset, byteLength, sum] of pieces) {
    const [id] = (hello[7] as [string, number][])[device] as [string, number];
    const bytes = file.subarray(offset, Number(offset) + byteLength);
    equal(`device ${id}`, sum, sha256(bytes));
    devices.set(id, Buffer.concat([devices.get(id) as Buffer, bytes]));
  }
  return { ram, devices, runState: runState ?? 'running' };
}

/** Section 7 of docs/wire-format.md, word for word and slow. */
function digest(page: Buffer): Buffer {
  const mod = (value: bigint): bigint => value & 0xffffffffn;
  const starts = [0x9e3779b1n, 0x85ebca77n, 0xc2b2ae3dn, 0x27d4eb2fn];
  const lanes = [...starts];
  const sums = [0n, 0n, 0n, 0n];
  for (let i = 0; i < page.length / 4; i++) {
    const lane = i % 4;
    const old = lanes[lane] as bigint;
    const turned = mod(old << 13n) | (old >> 19n);
    lanes[lane] = mod((turned ^ BigInt(page.readUInt32LE(i * 4))) * (starts[lane] as bigint));
    sums[lane] = mod((sums[lane] as bigint) + lanes[lane]);
  }
  const finish = (h: bigint): bigint => {
    const a = mod((h ^ (h >> 15n)) * 0x85ebca77n);
    const b = mod((a ^ (a >> 13n)) * 0xc2b2ae3dn);
    return b ^ (b >> 16n);
  };
  const mix = (words: readonly bigint[]): number => Number(words.reduce((h, word) => finish(h ^ word), 0n));
  const out = Buffer.alloc(8);
  out.writeUInt32LE(mix(lanes), 0);
  out.writeUInt32LE(mix([...sums].reverse()), 4);
  return out;
}
