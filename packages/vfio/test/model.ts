import type { GuestMemory } from '@godwit/core';
import { createGuestMemory, type MappedGuestMemory } from '@godwit/linux';
import { Type1Container, VfioGroup } from '@godwit/vfio';
import { type ModelGroup, type Type1ModelOptions, VfioModel } from '@godwit/vfio/testing';

export const PAGE = 4096;

/** Guest memory, and a container of the model's whose devices reach all of it at identical addresses. */
export interface ModelledVm {
  readonly memory: MappedGuestMemory;
  readonly model: VfioModel;
  readonly group: VfioGroup;
  readonly container: Type1Container;
  close(): void;
}

export async function modelledVm(
  pages: readonly number[] = [64],
  type1: Type1ModelOptions = {},
  group: Partial<ModelGroup> = {},
): Promise<ModelledVm> {
  let address = 0;
  const blocks = pages.map((count, i) => {
    const guestPhysicalAddress = address;
    address += (count + 16) * PAGE;
    return { id: `ram${i}`, guestPhysicalAddress, byteLength: count * PAGE };
  });
  const memory = createGuestMemory({ pageSize: PAGE, blocks });
  const model = new VfioModel([{ number: 7, ...group }], type1);
  const opened = VfioGroup.open(7, model);
  const container = Type1Container.open([opened], model);
  await container.mapMemory(memory);
  return {
    memory,
    model,
    group: opened,
    container,
    close() {
      container.close();
      opened.close();
      memory.close();
    },
  };
}

/** `block:page` of every dirty page. */
export function dirtyPages(memory: GuestMemory, bitmaps: { at(i: number): { has(page: number): boolean } }): string[] {
  return memory.blocks.flatMap(({ byteLength }, i) =>
    Array.from({ length: byteLength / memory.pageSize }, (_, page) => page)
      .filter((page) => bitmaps.at(i).has(page))
      .map((page) => `${i}:${page}`),
  );
}
