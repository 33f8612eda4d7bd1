import type { PageTarget } from '@godwit/core/pages';
import { HOST_PAGE_SIZE, MapFlags, mmap, munmap } from '@godwit/linux/unstable';
import {
  ControlWord,
  CopyBuffer,
  Figure,
  Mode,
  PageSaver,
  type ProtectedParts,
  sharedBitmaps,
} from '@godwit/workers/unstable';
import { expect, test } from '@jest/globals';

const PAGES = 4;

/** What a thread that saves is given, with no page owed: all four were copied, and are in the buffer. */
function parts(mode: number): { readonly given: ProtectedParts; readonly control: Int32Array; end(): void } {
  const buffer = mmap({ byteLength: PAGES * HOST_PAGE_SIZE, flags: MapFlags.MAP_PRIVATE | MapFlags.MAP_ANONYMOUS });
  const copies = CopyBuffer.parts(Number(buffer), PAGES, HOST_PAGE_SIZE);
  const ring = new CopyBuffer(copies);
  for (let page = 0; page < PAGES; page++) ring.put(0, page);
  const control = new Int32Array(new SharedArrayBuffer(ControlWord.count * 4));
  control[ControlWord.mode] = mode;
  const figures = new Float64Array(new SharedArrayBuffer(Figure.count * 8));
  figures[Figure.total] = PAGES;
  const given: ProtectedParts = {
    ...{ uffd: -1, wake: -1, pageSize: HOST_PAGE_SIZE, copies },
    blocks: [{ address: Number(buffer), byteLength: PAGES * HOST_PAGE_SIZE }],
    ...{ owed: sharedBitmaps([PAGES]), written: sharedBitmaps([PAGES]) },
    ...{ statistics: new SharedArrayBuffer(8), control: control.buffer as SharedArrayBuffer },
    figures: figures.buffer as SharedArrayBuffer,
    target: { module: undefined, make: 'none', options: undefined },
  };
  return { given, control, end: () => munmap(buffer, PAGES * HOST_PAGE_SIZE) };
}

function save(mode: number, onWrite: (control: Int32Array) => void = () => {}): { all: boolean; pages: number } {
  const { given, control, end } = parts(mode);
  let pages = 0;
  const target: PageTarget = {
    write(_block, _page, pageCount) {
      pages += pageCount;
      onWrite(control);
      return pageCount * HOST_PAGE_SIZE;
    },
    close() {},
  };
  const saver = new PageSaver(given, target);
  try {
    return { all: saver.run(), pages };
  } finally {
    saver.close();
    end();
  }
}

test('all is saved once every page is', () => {
  expect(save(Mode.copying)).toEqual({ all: true, pages: PAGES });
});

test('nothing is a snapshot any more when the other thread fails, also with the last page', () => {
  expect(save(Mode.lifting).all).toBe(false);
  const failing = (control: Int32Array) => void Atomics.store(control, ControlWord.mode, Mode.lifting);
  expect(save(Mode.copying, failing)).toEqual({ all: false, pages: PAGES });
});
