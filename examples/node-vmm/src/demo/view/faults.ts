import { faultsText, latencyText } from '../faults-text.js';
import { formatShare } from '../quantity.js';
import { bar } from './chart.js';
import { type StyledLine, span, wrap } from './styled-line.js';
import type { ViewState } from './view-state.js';

const MARGIN = '  ';

/** Whether the guest runs at its destination and pages are missing there. */
export function isFollowed({ state }: ViewState): boolean {
  return state === 'postcopy-active' || state === 'postcopy-paused' || state === 'postcopy-recover';
}

/** By post-copy: the number of missing pages, the guest's faults, and their times. No lines before the guest runs there. */
export function faultLines(view: ViewState, width: number): StyledLine[] {
  const { faults } = view;
  if (faults === undefined || !isFollowed(view)) return [];
  const { pagesMissing, pagesTotal } = faults;
  const share = pagesTotal === 0 ? 1 : 1 - pagesMissing / pagesTotal;
  const chart = Math.max(4, Math.min(30, width - MARGIN.length - 20));
  const latency = latencyText(faults);
  return [
    [span(`${MARGIN}${'there'.padEnd(10)}`), ...bar(share, chart, 'good'), span(`  ${formatShare(share)}`)],
    ...[faultsText(faults), ...(latency === '' ? [] : [`faults: ${latency}`])].flatMap((text) =>
      wrap(text, width - MARGIN.length - 10, 0, 'dim').map((line) => [span(' '.repeat(MARGIN.length + 10)), ...line]),
    ),
  ];
}
