import { closeFd, eventfd, MapFlags, mmap, munmap } from '@godwit/linux/unstable/libc';
import { Uffd, Userfaultfd } from '@godwit/linux/userfaultfd';
import { FaultStatistics } from '../missing/fault-statistics.js';
import { nowUs } from '../missing/now-us.js';
import { CopyBuffer } from './copy-buffer.js';
import { FaultCopier } from './fault-copier.js';
import { bitmapsIn, sharedBitmaps } from './owed-pages.js';
import { ControlWord, Figure, Mode, type ProtectedParts } from './protect-messages.js';

const PAGE = 4096;
const PAGES = 256;
/**
 * How often all pages are served: V8 compiles a function after some hundred calls, and a first fault takes ten times as long as a late one.
 */
const ROUNDS = 8;
/** Faults after which `goOn` is called. */
const CHUNK = 16;

/**
 * Serves faults on memory of its own, for which no thread waits, until V8 has compiled this code. Does nothing where such memory cannot be
 * made. `goOn` is called now and then, and ends the warm-up when it resolves with false.
 */
export async function warmUp(goOn: () => Promise<boolean>): Promise<void> {
  let uffd: Userfaultfd;
  try {
    uffd = Userfaultfd.open(Uffd.UFFD_FEATURE_PAGEFAULT_FLAG_WP);
  } catch {
    return;
  }
  const wake = eventfd(0);
  const byteLength = PAGES * PAGE;
  const flags = MapFlags.MAP_PRIVATE | MapFlags.MAP_ANONYMOUS | MapFlags.MAP_POPULATE;
  const address = mmap({ byteLength, flags });
  const buffer = mmap({ byteLength, flags });
  try {
    uffd.register(address, byteLength, Uffd.UFFDIO_REGISTER_MODE_WP);
    await serve({ uffd: uffd.fd, wake, address: Number(address), buffer: Number(buffer) }, goOn);
  } catch {
    // A failure is ignored: the warm-up only makes later work faster.
  } finally {
    uffd.close();
    closeFd(wake);
    munmap(address, byteLength);
    munmap(buffer, byteLength);
  }
}

async function serve(
  own: { readonly uffd: number; readonly wake: number; readonly address: number; readonly buffer: number },
  goOn: () => Promise<boolean>,
): Promise<void> {
  const owed = sharedBitmaps([PAGES]);
  const control = new Int32Array(new SharedArrayBuffer(ControlWord.count * 4));
  const parts: ProtectedParts = {
    ...{ uffd: own.uffd, wake: own.wake, pageSize: PAGE },
    blocks: [{ address: own.address, byteLength: PAGES * PAGE }],
    ...{ owed, written: sharedBitmaps([PAGES]) },
    statistics: new FaultStatistics().storage,
    control: control.buffer as SharedArrayBuffer,
    figures: new SharedArrayBuffer(Figure.count * 8),
    copies: CopyBuffer.parts(own.buffer, PAGES, PAGE),
    target: { module: undefined, make: 'none', options: undefined },
  };
  const copier = new FaultCopier(parts, () => {});
  const copies = new CopyBuffer(parts.copies);
  const [bitmap] = bitmapsIn(owed, [PAGES]);
  for (let round = 0; round < ROUNDS; round++) {
    // Both modes are used, so that the code of both is compiled.
    Atomics.store(control, ControlWord.mode, round % 4 === 0 ? Mode.noting : Mode.copying);
    bitmap?.setAll();
    for (let i = 0; i < PAGES; i++) {
      if (i % CHUNK === 0 && !(await goOn())) return;
      // The pages are far apart, so that each fault copies one page.
      copier.fault(own.address + ((i * 67) % PAGES) * PAGE, 1, nowUs());
      copier.step();
      copies.take(copies.next(PAGES));
    }
  }
}
