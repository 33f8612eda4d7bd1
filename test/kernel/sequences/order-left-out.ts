import type { DmaSpace, UnmapListener } from '@godwit/vfio';

/** The parts of the order between an address space's changes and its harvests. */
export type OrderPart = 'isMapped' | 'reading' | 'changesDone' | 'listen';

/**
 * Leaves out, on purpose, the order between an address space's changes and its harvests, or a part of it: harvests wait for
 * nothing (`changesDone`), read what was mapped when they began (`isMapped`), and use whatever the read returns (`reading`);
 * and nothing waits for the pages that an unmap still has to report (`listen`).
 */
export function leaveOutOrder(
  space: DmaSpace,
  parts: readonly OrderPart[] = ['isMapped', 'reading', 'changesDone', 'listen'],
): void {
  const listen = space.listen.bind(space);
  const without: Pick<DmaSpace, OrderPart> = {
    isMapped: () => true,
    reading: () => ({ end: () => [] }),
    changesDone: async () => null,
    listen: (listener: UnmapListener) =>
      listen({
        unmapped: (mapping, dirty, whole) => {
          Promise.resolve(listener.unmapped?.(mapping, dirty, whole)).catch(() => {});
        },
      }),
  };
  for (const part of parts) Object.defineProperty(space, part, { value: without[part] });
}
