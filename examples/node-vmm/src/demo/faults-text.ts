import type { FaultStatus } from '@godwit/core';
import { formatCount, formatMs, formatUs } from './quantity.js';

/** The statistics of the missing pages of a running guest, in one line. */
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

/**
 * The distribution of the times of faults: `3 up to 64 us, 20 up to 128 us`, for each power of two that occurred. Empty without a
 * fault.
 */
export function latencyText({ latencyDistribution }: Pick<FaultStatus, 'latencyDistribution'>): string {
  return latencyDistribution
    .flatMap((count, power) => (count === 0 ? [] : [`${formatCount(count)} up to ${formatUs(2 ** (power + 1))}`]))
    .join(', ');
}
