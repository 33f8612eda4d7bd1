import { DirtyBitmap, DirtyBitmaps, type GuestMemory } from '@godwit/core';
import { type IoctlArgument, StructBuffer, viewOf } from '@godwit/linux/unstable';
import { type KernelPort, Type1Container, VfioGroup, VfioType1Tracker } from '@godwit/vfio';
import { VfioModel } from '@godwit/vfio/testing';
import { Type1, VFIO_DIRTY_BITMAP, VFIO_DIRTY_BITMAP_GET } from '@godwit/vfio/unstable';
import { median, type Report } from '../report.js';
import { mappingRows } from './mappings.js';

const PAGE_BYTES = 4096;

/** The model of the kernel, with a GET_BITMAP that copies a prepared bitmap, which takes at least as long as in the kernel. */
class PreparedKernel implements KernelPort {
  /** Milliseconds spent in calls. */
  inCalls = 0;
  readonly #model = new VfioModel([{ number: 1 }]);
  readonly #prepared: DirtyBitmap;

  constructor(prepared: DirtyBitmap) {
    this.#prepared = prepared;
  }

  open = (path: string): number => this.#model.open(path);
  close = (fd: number): void => this.#model.close(fd);
  ioctl = (fd: number, request: number, argument?: IoctlArgument): number => this.#model.ioctl(fd, request, argument);
  read = (fd: number, buffer: Uint8Array): Promise<number> => this.#model.read(fd, buffer);
  write = (fd: number, buffer: Uint8Array): Promise<number> => this.#model.write(fd, buffer);

  async ioctlAsync(fd: number, request: number, argument: IoctlArgument = 0): Promise<number> {
    if (request !== Type1.VFIO_IOMMU_DIRTY_PAGES || typeof argument !== 'object' || argument.byteLength < 48) {
      return this.#model.ioctlAsync(fd, request, argument);
    }
    const start = performance.now();
    const get = new StructBuffer(VFIO_DIRTY_BITMAP_GET, argument.subarray(VFIO_DIRTY_BITMAP.size));
    viewOf(get.getBigInt('bitmap.data'), get.get('bitmap.size')).set(this.#prepared.bytes);
    this.inCalls += performance.now() - start;
    return 0;
  }
}

/**
 * Measures the cost of a harvest of VFIO's dirty log without the ioctl: zeroing the bitmap, counting it, and translating it from one
 * mapping to the engine's bitmap of a RAM block.
 */
export async function vfioHarvestBenchmark(options: {
  readonly byteLength: number;
  readonly runs: number;
}): Promise<Report> {
  const pages = options.byteLength / PAGE_BYTES;
  const sparse = new DirtyBitmap(pages);
  let seed = 1;
  for (let i = 0; i < pages / 100; i++) {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    sparse.set(Math.floor((seed / 2 ** 32) * pages));
  }
  const full = new DirtyBitmap(pages);
  full.setAll();
  const cases = [
    { name: '1 % dirty', bitmap: sparse, shift: 0 },
    { name: 'every page dirty, as behind an IOMMU', bitmap: full, shift: 0 },
    { name: '1 % dirty, a mapping that begins at page 5 of its block', bitmap: sparse, shift: 5 },
  ];
  const rows = [];
  for (const { name, bitmap, shift } of cases) {
    const value = await harvestMs(bitmap, shift, Math.max(5, options.runs * 3));
    rows.push({ name, value, unit: 'ms', atMost: 10 });
  }
  rows.push(...(await mappingRows(options.runs)));
  return {
    benchmark: `vfio: harvest of one mapping of ${options.byteLength / 2 ** 30} GiB (${pages} pages) beyond the ioctl, medians`,
    rows,
    notes: [],
  };
}

async function harvestMs(prepared: DirtyBitmap, shift: number, rounds: number): Promise<number> {
  const kernel = new PreparedKernel(prepared);
  const byteLength = (prepared.pageCount + shift) * PAGE_BYTES;
  const block = { id: 'ram', guestPhysicalAddress: 0, byteLength, view: () => new Uint8Array() };
  const memory: GuestMemory = { pageSize: PAGE_BYTES, blocks: [block] };
  const group = VfioGroup.open(1, kernel);
  const container = Type1Container.open([group], kernel);
  await container.map({
    iova: shift * PAGE_BYTES,
    guestPhysicalAddress: shift * PAGE_BYTES,
    byteLength: prepared.pageCount * PAGE_BYTES,
    hostAddress: 0x10_0000n,
  });
  const tracker = new VfioType1Tracker(container, memory);
  await tracker.start();
  const into = new DirtyBitmaps(memory);
  const own: number[] = [];
  for (let round = 0; round < rounds + 3; round++) {
    into.clearAll();
    kernel.inCalls = 0;
    const start = performance.now();
    await tracker.harvest(into);
    // The first rounds are warm-up for the JIT compiler.
    if (round >= 3) own.push(performance.now() - start - kernel.inCalls);
  }
  if (into.count() !== prepared.count()) throw new Error('the harvest lost pages');
  await tracker.stop();
  container.close();
  group.close();
  return median(own);
}
