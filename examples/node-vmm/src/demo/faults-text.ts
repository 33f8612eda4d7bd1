import type { FaultStatus } from '@godwit/core';
import { formatCount, formatMs, formatUs } from './quantity.js';

/** How the pages come that are missing of a guest that runs, in one line. */
export function faultsText(status: FaultStatus): string {
  const { pagesMissing, pagesTotal, faults, faultsPerSecond, worstLatencyUs, remainingMs, pagesLost } = status;
  const parts = [
    `${formatCount(pagesMissing)} of ${formatCount(pagesTotal)} pages missing`,
    pagesMissing > 0 && faultsPerSecond > 0
      ? `${formatCount(faults)} faults, ${formatCount(faultsPerSecond)} a second`
      : `${formatCount(faults)} faults`,
    ...(faults > 0 ? [`the longest ${formatUs(worstLatencyUs)}`] : []),
    ...(pagesLost > 0 ? [`${formatCount(pagesLost)} pages cannot be had`] : []),
    ...(pagesMissing > 0 && typeof remainingMs === 'number' ? [`${formatMs(remainingMs)} left`] : []),
  ];
  return parts.join(', ');
}

/** How many faults took how long: `3 up to 64 us, 20 up to 128 us`, for each power of two that there was. Empty without a fault. */
export function latencyText({ latencyDistribution }: Pick<FaultStatus, 'latencyDistribution'>): string {
  return latencyDistribution
    .flatMap((count, power) => (count === 0 ? [] : [`${formatCount(count)} up to ${formatUs(2 ** (power + 1))}`]))
    .join(', ');
}
