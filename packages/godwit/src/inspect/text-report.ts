import type { Frame, HelloFrame, WelcomeFrame } from '@godwit/core';
import { urgentStreamOf } from '@godwit/core/pages';
import type { RecordedTrack } from '@godwit/transport';
import type { AttemptEnd, Finding, InspectionSummary, Outcome } from './finding.js';
import { count, milliseconds, plainText, size, toJson } from './plain-text.js';

/** Most characters that are shown of a description or of a frame's fields. */
const MOST_SHOWN = 300;

/** Most blocks or devices that are shown of a hello. */
const MOST_LISTED = 16;

/** The columns of a line: offset, time, name and details. */
type Line = readonly [offset: number | undefined, atMs: number | undefined, name: string, text: string];

/** A finding as lines of text for a person. */
export function textOf(finding: Finding): string {
  return linesOf(finding)
    .map(([offset, atMs, name, text]) => {
      const at = offset === undefined ? '' : String(offset);
      const time = atMs === undefined ? '' : `${(atMs / 1000).toFixed(3)} s`;
      return `${at.padStart(12)} ${time.padStart(10)}  ${name.padEnd(10)} ${plainText(text)}`.trimEnd();
    })
    .join('\n');
}

function linesOf(finding: Finding): Line[] {
  switch (finding.event) {
    case 'recording':
      return [[finding.offset, undefined, 'recording', `${finding.startedAt}, by ${finding.software}`]];
    case 'link':
      return [
        [finding.offset, finding.atMs, 'link', `${finding.link}: ${finding.peer}, recorded at the ${finding.side}`],
      ];
    case 'snapshot': {
      const { offset, fileBytes, hello, runState } = finding;
      return [
        [0, undefined, 'snapshot', `${size(fileBytes)}, less where it is sparse; of a guest that was ${runState}`],
        ...helloLines(offset, undefined, hello),
      ];
    }
    case 'block': {
      const { offset, id, pages, present } = finding;
      return [[offset, undefined, 'block', `${id}: ${count(present)} of ${count(pages)} pages, the others are zero`]];
    }
    case 'message':
      return messageLines(finding.offset, finding.atMs, finding.track, finding.frame);
    case 'frame': {
      const { offset, atMs, track, frame, byteLength } = finding;
      return [[offset, atMs, frame.type, joined(from(track), size(byteLength), fieldsOf(frame))]];
    }
    case 'round':
      return [[undefined, undefined, 'round', roundText(finding)]];
    case 'urgent': {
      const { requests, requestedPages, pages, bytes } = finding;
      const asked = `${count(requests)} ${plural('request', requests)} for ${count(requestedPages)} pages`;
      return [[undefined, undefined, 'urgent', `${asked}, ${count(pages)} pages in answers, ${size(bytes)}`]];
    }
    case 'device': {
      const { id, attempt, pieces, bytes } = finding;
      const again = attempt > 1 ? `, for attempt ${attempt}` : '';
      const text = `${id}: ${size(bytes)} in ${count(pieces)} ${plural('piece', pieces)}${again}`;
      return [[undefined, undefined, 'device', text]];
    }
    case 'attempt':
      return [[undefined, undefined, 'attempt', attemptText(finding)]];
    case 'lost': {
      const { offset, atMs, track, code, message } = finding;
      return [[offset, atMs, 'LOST', joined(from(track), code, message)]];
    }
    case 'damage':
      return [[finding.offset, undefined, 'DAMAGE', finding.message]];
    case 'violation':
      return [[finding.offset, undefined, 'VIOLATION', finding.message]];
    case 'broken':
      return [[finding.offset, undefined, 'BROKEN', `${finding.code}: ${finding.message}`]];
    case 'summary':
      return summaryLines(finding);
  }
}

function messageLines(
  offset: number,
  atMs: number | undefined,
  track: RecordedTrack | undefined,
  frame: Frame,
): Line[] {
  if (frame.type === 'hello') return helloLines(offset, atMs, frame);
  if (frame.type === 'welcome') return [[offset, atMs, 'welcome', welcomeText(frame)]];
  if (frame.type === 'error') {
    const more = frame.retry ? 'the migration may go on over another connection' : '';
    return [[offset, atMs, 'ERROR', joined(from(track), frame.code, frame.message, more)]];
  }
  if (frame.type === 'back') {
    return [[offset, atMs, 'back', joined(from(track), `attempt ${frame.attempt} is given up, pre-copy goes on`)]];
  }
  return [[offset, atMs, frame.type, joined(from(track), fieldsOf(frame))]];
}

function helloLines(offset: number, atMs: number | undefined, hello: HelloFrame): Line[] {
  const urgent = urgentStreamOf(hello) !== undefined;
  const pageChannels = hello.pageChannels - (urgent ? 1 : 0);
  const channels = `${pageChannels} ${plural('page channel', pageChannels)}${urgent ? ' and the urgent one' : ''}`;
  const versions = `protocol ${hello.minimumVersion} to ${hello.maximumVersion}`;
  const more = (text: string): Line => [undefined, undefined, '', text];
  return [
    [
      offset,
      atMs,
      'hello',
      `migration ${hello.migrationId}, connection ${hello.connection} (${hello.stage}), attempt ${hello.attempt}`,
    ],
    more(`${hello.software}, ${versions}, pages of ${hello.pageSize} bytes, ${channels}`),
    ...listed(hello.blocks, ({ id, byteLength, guestPhysicalAddress, identity, shared, readOnly }) => {
      const memory = identity === '' ? '' : `, memory ${identity}`;
      const kind = `${shared ? ', shared' : ''}${readOnly ? ', read-only' : ''}`;
      return more(`block ${id}: ${size(byteLength)} at 0x${guestPhysicalAddress.toString(16)}${memory}${kind}`);
    }),
    ...listed(hello.devices, ({ id, version, stateBytes }) =>
      more(`device ${id}: version ${version}${stateBytes === 0 ? '' : `, about ${size(stateBytes)}`}`),
    ),
    more(`features: ${hello.features.join(', ') || 'none'}`),
    more(`description: ${shortened(toJson(hello.description))}`),
  ];
}

function welcomeText(welcome: WelcomeFrame): string {
  const { software, version, features, maximumPayload, maximumDeviceState, incarnation } = welcome;
  const agreed = features.join(', ') || 'none';
  const limits = `payloads of at most ${size(maximumPayload)}, device state of at most ${size(maximumDeviceState)}`;
  return `${software}, protocol ${version}, features: ${agreed}, ${limits}, incarnation ${incarnation}`;
}

function attemptText({ attempt, end, durationMs, deviceBytes }: Extract<Finding, { event: 'attempt' }>): string {
  const after = durationMs === undefined ? '' : ` after ${milliseconds(durationMs)}`;
  return `${attempt}: ${ATTEMPT_ENDS[end]}${after}, ${size(deviceBytes)} of device state`;
}

const ATTEMPT_ENDS: Readonly<Record<AttemptEnd, string>> = {
  go: 'go',
  back: 'given up',
  connection: 'given up with its connection',
  none: 'the file has no end of it',
};

function roundText(round: Extract<Finding, { event: 'round' }>): string {
  const total = Object.values(round.pages).reduce((sum, pages) => sum + pages, 0);
  const time = round.durationMs === undefined ? '' : `, ${milliseconds(round.durationMs)}`;
  const sent = `${size(round.bytes)} in ${count(round.frames)} ${plural('frame', round.frames)}${time}`;
  const acknowledged = round.acknowledged === undefined ? 'not acknowledged' : 'acknowledged';
  return `${round.round}: ${count(total)} pages (${kinds(round.pages)}), ${sent}, ${acknowledged}`;
}

function summaryLines(summary: InspectionSummary): Line[] {
  const line = (name: string, text: string): Line => [undefined, undefined, name, text];
  const tallies = Object.entries(summary.frames).map(
    ([type, { count: frames, bytes }]) => `${type} ${count(frames)} (${size(bytes)})`,
  );
  const reasons = [
    ...(summary.violations > 0
      ? [`${count(summary.violations)} ${plural('violation', summary.violations)} of the protocol`]
      : []),
    ...(summary.damages > 0 ? [`${count(summary.damages)} damaged ${plural('part', summary.damages)}`] : []),
  ];
  const state = summary.whole ? 'whole' : ['NOT whole', ...reasons].join(': ');
  return [
    ...(summary.outcome.type === 'saved' ? [] : [line('frames', tallies.join(', ') || 'none')]),
    line('pages', `${kinds(summary.pages)}${urgentPages(summary)}; ${size(summary.bytes)} in all`),
    ...(summary.attempts === 0 ? [] : [line('attempts', `${count(summary.attempts)}, ${given(summary.wentBack)}`)]),
    line('outcome', outcomeText(summary.outcome)),
    line('file', state),
  ];
}

function outcomeText(outcome: Outcome): string {
  switch (outcome.type) {
    case 'running':
      return `${
        outcome.runState === 'paused'
          ? 'the guest is at the destination, paused as it was'
          : 'the guest runs at the destination'
      }${outcome.incomplete ? '; the file does not say that all of its pages have come there' : ''}`;
    case 'handed over':
      return 'the guest was handed over; the file does not say that it runs at the destination';
    case 'failed':
      return `failed, said the ${outcome.by ?? 'peer'}: ${outcome.code}: ${outcome.message}`;
    case 'saved':
      return 'the guest was saved in this file';
    case 'unfinished':
      return 'the file does not show an end of the migration';
  }
}

function given(wentBack: number): string {
  return wentBack === 0 ? 'none given up' : `${count(wentBack)} given up`;
}

/** The pages by kind; a kind of encoded pages is listed only if there are any. */
function kinds(pages: object): string {
  return Object.entries(pages)
    .filter(([sort, pagesOfIt]) => sort === 'raw' || sort === 'zero' || pagesOfIt > 0)
    .map(([sort, pagesOfIt]) => `${count(pagesOfIt as number)} ${sort}`)
    .join(', ');
}

function urgentPages({ urgentPages: pages }: InspectionSummary): string {
  return pages === 0 ? '' : `, and ${count(pages)} over urgent channels`;
}

function from(track: RecordedTrack | undefined): string {
  if (track === undefined) return '';
  const stream = track.stream === 0 ? 'control' : `channel ${track.stream - 1}`;
  return `${track.sender}, link ${track.link}, ${stream}`;
}

function joined(...parts: readonly string[]): string {
  return parts.filter((part) => part !== '').join(': ');
}

function fieldsOf({ type, ...fields }: Frame): string {
  const text = toJson(fields);
  return text === '{}' ? '' : shortened(text);
}

function shortened(text: string): string {
  return text.length > MOST_SHOWN ? `${text.slice(0, MOST_SHOWN)}...` : text;
}

function listed<T>(items: readonly T[], line: (item: T) => Line): Line[] {
  const lines = items.slice(0, MOST_LISTED).map(line);
  if (items.length > MOST_LISTED) lines.push([undefined, undefined, '', `and ${items.length - MOST_LISTED} more`]);
  return lines;
}

function plural(noun: string, amount: number): string {
  return amount === 1 ? noun : `${noun}s`;
}
