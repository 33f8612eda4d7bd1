import type { Workload } from './workload.js';

/** The workloads of which a workload is made; none for one that writes by itself. */
function partsOf(workload: Workload): readonly Workload[] {
  switch (workload.kind) {
    case 'phases':
      return workload.phases.map((phase) => phase.workload);
    case 'bursts':
      return workload.between === undefined ? [workload.burst] : [workload.burst, workload.between];
    case 'together':
      return workload.workloads;
    default:
      return [];
  }
}

/** Bytes of the smallest set of pages that a workload writes at one rate; 0 where single pages matter. */
export function smallestPart(workload: Workload, populatedBytes: number): number {
  switch (workload.kind) {
    case 'uniform':
    case 'sweep':
      return workload.bytes ?? populatedBytes;
    case 'hot':
      return workload.hotBytes ?? (workload.bytes ?? populatedBytes) / 10;
    case 'curve':
      return workload.points[0]?.bytes ?? Number.POSITIVE_INFINITY;
    case 'trace':
      return 0;
    default:
      return Math.min(Number.POSITIVE_INFINITY, ...partsOf(workload).map((part) => smallestPart(part, populatedBytes)));
  }
}

/** The number of distinct bytes that a workload may write, computed from its regions. */
export function writtenBytes(workload: Workload, populatedBytes: number): number {
  switch (workload.kind) {
    case 'uniform':
    case 'hot':
    case 'sweep':
      return workload.bytes ?? populatedBytes - (workload.offset ?? 0);
    case 'curve':
      return Math.min(populatedBytes, workload.points.at(-1)?.bytes ?? 0);
    case 'together':
      return Math.min(
        populatedBytes,
        partsOf(workload).reduce((sum, part) => sum + writtenBytes(part, populatedBytes), 0),
      );
    default:
      return Math.max(0, ...partsOf(workload).map((part) => writtenBytes(part, populatedBytes)));
  }
}

/** The time for which a workload changes, or after which it begins again. Milliseconds; 0 for a workload that does not change. */
export function periodMs(workload: Workload): number {
  const longest = Math.max(0, ...partsOf(workload).map(periodMs));
  switch (workload.kind) {
    case 'phases':
      return workload.phases.reduce((sum, { lastMs }) => sum + lastMs, longest);
    case 'bursts':
      return workload.everyMs + longest;
    default:
      return longest;
  }
}

/** Whether a workload does not change with time. */
export function isSteady(workload: Workload): boolean {
  if (workload.kind === 'trace' || workload.kind === 'phases' || workload.kind === 'bursts') return false;
  return partsOf(workload).every(isSteady);
}

/** The same workload, with every rate times `factor`; `undefined` for one that has no rates to change, such as a trace. */
export function atRate(workload: Workload, factor: number): Workload | undefined {
  switch (workload.kind) {
    case 'uniform':
    case 'hot':
    case 'sweep': {
      const { rate } = workload;
      const changed = typeof rate === 'number' ? rate * factor : { pagesPerSecond: rate.pagesPerSecond * factor };
      return { ...workload, rate: changed };
    }
    default:
      return undefined;
  }
}

/** Whether a workload writes its pages one after the other. */
export function isInOrder(workload: Workload): boolean {
  const parts = partsOf(workload);
  if (parts.length > 0) return parts.every(isInOrder);
  return workload.kind === 'sweep' || workload.kind === 'trace' || workload.kind === 'idle';
}
