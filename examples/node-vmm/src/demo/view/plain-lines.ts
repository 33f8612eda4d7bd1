import type { RoundRecord } from '@godwit/core';
import { parseGuestLine } from '../../guest/heartbeat.js';
import { cellsText } from '../../guest/picture.js';
import type { TimedEvent } from '../demo-event.js';
import { faultsText } from '../faults-text.js';
import { formatBytes, formatCount, formatMs, formatRange, formatRate, formatShare } from '../quantity.js';
import { newsText } from './news.js';
import { summaryLines } from './summary.js';
import { LATE, type ViewState } from './view-state.js';

/** The lines of `--plain` for an event, which `view` already includes; none for events that only the live view shows. */
export function plainLines(event: TimedEvent, view: ViewState): readonly string[] {
  const many = (view.guest?.settings.roundTrips ?? 0) > 0;
  switch (event.event) {
    case 'hosts':
      return [`hosts: source is process ${event.source}, destination is process ${event.destination}`];
    case 'guest': {
      const { spec, settings } = event;
      return [
        `guest: ${formatBytes(spec.memoryBytes)}, ${spec.vcpus} ${spec.kind === 'kvm' ? 'vCPU(s) on KVM' : 'writer(s), no KVM'}, ` +
          `${spec.dirtyPagesPerSecond === 0 ? 'flat out' : `${formatCount(spec.dirtyPagesPerSecond)} pages/s`} ${spec.order} over ${formatBytes(spec.workingSetBytes)}; ` +
          `downtime limit ${formatMs(settings.downtimeLimitMs)}${settings.maxBandwidth === 0 ? '' : `, pre-copy at most ${formatRate(settings.maxBandwidth)}`}`,
        ...(event.note === undefined ? [] : [`note: ${event.note}`]),
      ];
    }
    case 'phase':
      return many || event.phase === 'done' ? [] : [`-- ${event.phase}`];
    case 'console':
      return many ? [] : [`[${event.host}] ${consoleText(event.text)}`];
    case 'hop':
      return many ? [] : [`migrating from ${event.from} to ${event.to} over ${event.peer}`];
    case 'round':
      return many
        ? []
        : [
            `${event.phase === 'stop-and-copy' ? 'final  ' : `round ${event.round}`}: ${formatCount(event.pages.raw)} pages, ${formatCount(event.pages.zero)} zero, ` +
              `${formatBytes(event.wireBytes)} in ${formatMs(event.totalMs)}; dirtied ${formatCount(event.newlyDirtyPages)}; ` +
              `${event.throttle === 0 ? '' : `held back for ${formatShare(event.throttle)}; `}` +
              `downtime would be ${formatMs(event.predictedDowntimeMs)}${rangeText(event)}: ${event.decision.action} (${event.decision.reason})`,
          ];
    case 'compared':
      return many
        ? []
        : [`compared ${formatCount(event.pages)} pages of both sides in ${formatMs(event.verifyMs)}: equal`];
    case 'migrated':
      return [
        `${many ? `${event.hop}/${(view.guest?.settings.roundTrips ?? 0) * 2} ` : ''}the guest runs at the ${view.runsAt}: total ${formatMs(event.totalMs)}, ` +
          `downtime ${formatMs(event.downtimeMs)} (predicted ${formatMs(event.predictedDowntimeMs)}), ${event.rounds.length} rounds, ${formatBytes(event.wireBytes)}`,
      ];
    case 'checked':
      return many
        ? event.defects
        : [
            `checked ${formatCount(event.pages)} pages from outside the guest: ${event.defects.length} defects`,
            ...event.defects,
          ];
    case 'warning':
      return [`warning: ${event.code}: ${event.message}`];
    case 'status':
    case 'switchover-start':
    case 'prepared':
    case 'throttle':
    case 'bandwidth':
      return many ? [] : [newsText(event)];
    case 'connect-failed':
    case 'went-back':
    case 'not-prepared':
    case 'downtime-exceeded':
    case 'limit-unreachable':
    case 'migration-failed':
      return [newsText(event)];
    case 'page':
      return [`the live page: ${event.url}`];
    case 'defect':
      return [`DEFECT at the ${event.host}: ${event.message}`];
    case 'host-gone':
      return [event.message];
    case 'cancelling':
      return [event.late ? LATE : 'cancelling'];
    case 'runs-on':
      return [
        `the guest runs on at the ${event.host}: ${event.beats} heartbeats since, ${event.defects.length} defects`,
        ...event.defects,
      ];
    case 'completed':
    case 'failed':
      return [
        '',
        ...summaryLines(view, 80).map((line) =>
          line
            .map(({ text }) => text)
            .join('')
            .trimEnd(),
        ),
      ];
    case 'faults':
      // Only the last of these events has a line: they come ten times a second.
      return event.pagesMissing === 0 ? [`its pages have come: ${faultsText(event)}`] : [];
    case 'state':
      return event.state.startsWith('postcopy-') && event.state !== 'postcopy-device'
        ? [`${event.state}: the guest runs at the ${view.runsAt}, and pages are missing there`]
        : [];
    case 'progress':
    case 'round-start':
    case 'received':
    case 'memory':
    case 'gap':
      return [];
  }
}

/** A heartbeat by its number and its row of the picture; any other line as it is. */
function consoleText(text: string): string {
  const line = parseGuestLine(text);
  return line.type === 'heartbeat' ? `${String(line.count).padStart(6, '0')} |${cellsText(line.cells)}|` : text;
}

/** The interval of a prediction, where the record has one. */
function rangeText(round: RoundRecord & { readonly predictedDowntimeRangeMs?: readonly [number, number] }): string {
  return round.predictedDowntimeRangeMs === undefined ? '' : ` (${formatRange(round.predictedDowntimeRangeMs)})`;
}
