import type { LogEntry } from '@godwit/observe/model';
import { bytesText, countText, msText } from '@godwit/observe/model';
import type { Finding } from '../inspect/finding.js';

type Line = Pick<LogEntry, 'side' | 'level' | 'text'>;

/** Frames that get a line of their own in the log. */
const TOLD: ReadonlySet<string> = new Set([
  ...['hello', 'welcome', 'resumed', 'switchover', 'ready', 'verified', 'back', 'backAck', 'go', 'running', 'released'],
  'whole',
]);

const ENDS = { go: 'go', back: 'given up', connection: 'given up with its connection', none: 'not told' } as const;

/** The line of the log for a finding; `undefined` for a finding that is only counted. */
export function logLine(finding: Finding): Line | undefined {
  switch (finding.event) {
    case 'recording':
      return line('source', 'info', `recorded by ${finding.software}`);
    case 'link':
      return line(finding.side, 'info', `link ${finding.link} with ${finding.peer}`);
    case 'frame': {
      const { frame, track } = finding;
      const side = track?.sender ?? 'source';
      if (frame.type === 'error') return line(side, 'bad', `error: ${frame.code}: ${frame.message}`);
      if (!TOLD.has(frame.type)) return undefined;
      return line(side, frame.type === 'running' ? 'good' : frame.type === 'back' ? 'warning' : 'info', frame.type);
    }
    case 'round': {
      const { raw, zero, delta, compressed } = finding.pages;
      const pages = countText(raw + zero + delta + compressed);
      return line('source', 'info', `round ${finding.round}: ${pages} pages, ${bytesText(finding.bytes)} on the wire`);
    }
    case 'urgent':
      return line(
        'destination',
        'info',
        `the guest has waited for ${countText(finding.requestedPages)} pages, in ${countText(finding.requests)} requests`,
      );
    case 'device':
      return line('source', 'info', `device ${finding.id}: ${bytesText(finding.bytes)} in ${finding.pieces} pieces`);
    case 'attempt': {
      const took = finding.durationMs === undefined ? '' : ` after ${msText(finding.durationMs)}`;
      const level = finding.end === 'go' ? 'info' : 'warning';
      return line('source', level, `attempt ${finding.attempt}: ${ENDS[finding.end]}${took}`);
    }
    case 'lost':
      return line(finding.track.sender, 'warning', `a stream was lost: ${finding.code}: ${finding.message}`);
    case 'violation':
      return line('source', 'bad', `at byte ${finding.offset}, against the protocol: ${finding.message}`);
    case 'broken':
      return line('source', 'bad', `at byte ${finding.offset} the file ends: ${finding.code}: ${finding.message}`);
    default:
      return undefined;
  }
}

function line(side: LogEntry['side'], level: LogEntry['level'], text: string): Line {
  return { side, level, text };
}
