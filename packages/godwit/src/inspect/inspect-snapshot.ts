import { checkSnapshot, type SnapshotMetadata } from '@godwit/transport';
import type { Finding, PagesBySort } from './finding.js';
import { noPages } from './round-tally.js';

/** The number of damages that are reported one by one; further ones are only counted. */
const MOST_DAMAGES = 100;

/**
 * Reads a snapshot file, compares every part of it with its checksum, and reports what is in it, the last finding being the
 * summary. Memory is bounded whatever the size of the guest. Fails when the file cannot be opened.
 *
 * @example
 * for await (const finding of inspectSnapshot('vm.snapshot')) {
 *   if (finding.event === 'damage') console.log(finding.offset, finding.message);
 * }
 */
export async function* inspectSnapshot(path: string): AsyncGenerator<Finding, void, undefined> {
  let damages = 0;
  let broken = false;
  let metadata: SnapshotMetadata | undefined;
  let bytes = 0;
  for await (const item of checkSnapshot(path)) {
    if (item.type === 'metadata') {
      metadata = item.metadata;
      bytes = item.fileBytes;
      const { offset, fileBytes } = item;
      yield { event: 'snapshot', offset, fileBytes, hello: metadata.hello, runState: metadata.runState };
      yield* contentsOf(metadata);
    } else if (item.fatal) {
      broken = true;
      yield { event: 'broken', offset: item.offset, code: item.error.code, message: item.error.message };
    } else if (++damages <= MOST_DAMAGES) {
      yield { event: 'damage', offset: item.offset, message: item.error.message };
    }
  }
  yield {
    event: 'summary',
    whole: !broken && damages === 0,
    violations: 0,
    damages,
    frames: {},
    pages: pagesOf(metadata),
    urgentPages: 0,
    bytes,
    attempts: 0,
    wentBack: 0,
    outcome: metadata === undefined ? { type: 'unfinished' } : { type: 'saved' },
  };
}

function* contentsOf({ hello, blockOffsets, presentPages, pieces }: SnapshotMetadata): Generator<Finding> {
  for (const [i, { id, byteLength }] of hello.blocks.entries()) {
    const pages = byteLength / hello.pageSize;
    yield { event: 'block', offset: blockOffsets[i] as number, id, pages, present: presentPages[i] as number };
  }
  const devices = hello.devices.map(({ id }) => ({ id, pieces: 0, bytes: 0 }));
  for (const { device, byteLength } of pieces) {
    const sum = devices[device];
    if (sum === undefined) continue;
    sum.pieces++;
    sum.bytes += byteLength;
  }
  for (const device of devices) yield { event: 'device', link: 0, attempt: 0, ...device };
}

function pagesOf(metadata: SnapshotMetadata | undefined): PagesBySort {
  const pages = noPages();
  for (const [i, { byteLength }] of metadata?.hello.blocks.entries() ?? []) {
    const { hello, presentPages } = metadata as SnapshotMetadata;
    pages.raw += presentPages[i] as number;
    pages.zero += byteLength / hello.pageSize - (presentPages[i] as number);
  }
  return pages;
}
