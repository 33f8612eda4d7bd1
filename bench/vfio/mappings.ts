import { DirtyBitmaps, type GuestMemory } from '@godwit/core';
import { createGuestMemory } from '@godwit/linux';
import { type IoctlArgument, StructBuffer, viewOf } from '@godwit/linux/unstable';
import { type KernelPort, Type1Container, VfioGroup, VfioType1Tracker } from '@godwit/vfio';
import { VfioModel } from '@godwit/vfio/testing';
import { Type1, VFIO_DIRTY_BITMAP, VFIO_DIRTY_BITMAP_GET } from '@godwit/vfio/unstable';
import { median, type Row } from '../report.js';

const PAGE_BYTES = 4096;
/** The number of mappings: one page each, followed by a hole, as a guest's driver maps its buffers by a virtual IOMMU. */
const MAPPINGS = 100_000;
/** One of this many mappings is dirty. */
const DIRTY_EVERY = 100;

/** A kernel that maps, unmaps and reads logs in no time. */
class ImmediateKernel implements KernelPort {
  readonly #model = new VfioModel([{ number: 1 }], { mappingsAvailable: MAPPINGS });
  #reads = 0;

  open = (path: string): number => this.#model.open(path);
  close = (fd: number): void => this.#model.close(fd);
  read = (fd: number, buffer: Uint8Array): Promise<number> => this.#model.read(fd, buffer);
  write = (fd: number, buffer: Uint8Array): Promise<number> => this.#model.write(fd, buffer);
  ioctlAsync = async (fd: number, request: number, argument?: IoctlArgument): Promise<number> =>
    this.ioctl(fd, request, argument);

  ioctl = (fd: number, request: number, argument?: IoctlArgument): number => {
    if (request === Type1.VFIO_IOMMU_MAP_DMA || request === Type1.VFIO_IOMMU_UNMAP_DMA) return 0;
    if (request !== Type1.VFIO_IOMMU_DIRTY_PAGES || typeof argument !== 'object' || argument.byteLength < 48) {
      return this.#model.ioctl(fd, request, argument);
    }
    if (this.#reads++ % DIRTY_EVERY !== 0) return 0;
    const get = new StructBuffer(VFIO_DIRTY_BITMAP_GET, (argument as Uint8Array).subarray(VFIO_DIRTY_BITMAP.size));
    viewOf(get.getBigInt('bitmap.data'), 8)[0] = 1;
    return 0;
  };
}

/** Measures the cost of 100,000 mappings without the kernel's part: that of making them, and that of harvesting them. */
export async function mappingRows(runs: number): Promise<readonly Row[]> {
  const mapMs: number[] = [];
  const harvestMs: number[] = [];
  const blocks = [{ id: 'ram', guestPhysicalAddress: 0, byteLength: MAPPINGS * PAGE_BYTES }];
  const memory = createGuestMemory({ blocks, overcommit: true });
  for (let run = 0; run < runs; run++) {
    const kernel = new ImmediateKernel();
    const group = VfioGroup.open(1, kernel);
    const container = Type1Container.open([group], kernel);
    const begun = performance.now();
    await mapAll(container, memory.blocks[0]?.hostAddress as bigint);
    mapMs.push(performance.now() - begun);
    harvestMs.push(await harvested(container, memory));
    container.close();
    group.close();
  }
  memory.close();
  return [
    { name: `${MAPPINGS} mappings: made, one after the other`, value: median(mapMs), unit: 'ms', atMost: 2000 },
    { name: `${MAPPINGS} mappings: harvested`, value: median(harvestMs), unit: 'ms', atMost: 1000 },
  ];
}

async function mapAll(container: Type1Container, hostAddress: bigint): Promise<void> {
  for (let i = 0; i < MAPPINGS; i++) {
    await container.map({
      iova: i * 2 * PAGE_BYTES,
      guestPhysicalAddress: i * PAGE_BYTES,
      byteLength: PAGE_BYTES,
      hostAddress: hostAddress + BigInt(i * PAGE_BYTES),
    });
  }
}

async function harvested(container: Type1Container, memory: GuestMemory): Promise<number> {
  const tracker = new VfioType1Tracker(container, memory);
  await tracker.start();
  const into = new DirtyBitmaps(memory);
  const begun = performance.now();
  await tracker.harvest(into);
  const took = performance.now() - begun;
  if (into.count() !== MAPPINGS / DIRTY_EVERY) throw new Error('the harvest lost pages');
  await tracker.stop();
  return took;
}
