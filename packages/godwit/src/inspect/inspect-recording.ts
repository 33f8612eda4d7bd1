import { checkOptions, type Frame, type FrameName, type MovedRunState } from '@godwit/core';
import { type ReadableBytes, type RecordedFrame, type RecordedItem, readRecording } from '@godwit/transport';
import type { Finding, FrameTally, InspectionSummary, Outcome } from './finding.js';
import { LinkAudit } from './link-audit.js';
import { MigrationAudit } from './migration-audit.js';
import { noPages } from './round-tally.js';

/** How much of a recording is reported. */
export interface InspectOptions {
  /** Whether to report every frame. Default: false. */
  readonly frames?: boolean;
  /** Whether to stop at the frame that marks the recording's end, for input that may never end. Default: false. */
  readonly untilEnd?: boolean;
}

/** The number of violations that are reported one by one; further ones are only counted. */
const MOST_VIOLATIONS = 100;

/** The most links, and the most migrations, whose state is kept. A migration has a link for each connection. */
const MOST_LINKS = 64;

/** Frequent frames, which are only counted and added up in rounds. Every other frame is a finding of its own. */
const ADDED_UP: ReadonlySet<FrameName> = new Set<FrameName>([
  'pages',
  'zeroPages',
  'deltaPages',
  'compressedPages',
  'roundEnd',
  'roundAck',
  'device',
  'digests',
  'received',
  'prepare',
  'prepared',
  'owed',
  'missing',
  'requestPages',
  'loaded',
  'probe',
  'ping',
  'pong',
]);

/**
 * Reads a recording, or the bytes of one bare stream, and reports what is in it, the last finding being the summary. The
 * file may have any size and any contents: memory is bounded, and unreadable bytes are a finding too.
 *
 * @example
 * for await (const finding of inspectRecording(createReadStream('migration.godwit'))) {
 *   if (finding.event === 'violation') console.log(finding.offset, finding.message);
 * }
 */
export async function* inspectRecording(
  bytes: ReadableBytes,
  options: InspectOptions = {},
): AsyncGenerator<Finding, void, undefined> {
  checkOptions<InspectOptions>('inspectRecording', options, { frames: true, untilEnd: true });
  const inspection = new Inspection(options);
  for await (const item of readRecording(bytes)) {
    inspection.item(item);
    if (inspection.found) yield* inspection.take();
    if (options.untilEnd === true && item.type === 'recordingEnd') break;
  }
  inspection.end();
  yield* inspection.take();
}

class Inspection {
  readonly #options: InspectOptions;
  readonly #links = new Map<number, LinkAudit>();
  readonly #migrations = new Map<string, MigrationAudit>();
  readonly #frames: Partial<Record<FrameName, FrameTally>> = {};
  readonly #pages = noPages();
  #urgentPages = 0;
  #findings: Finding[] = [];
  #violations = 0;
  #broken = false;
  #bytes = 0;
  #outcome: Outcome = { type: 'unfinished' };
  /** Whether the last error says that the migration may go on. */
  #mayGoOn = false;
  #runState: MovedRunState | undefined;
  /** Whether the file names pages that are missing at the destination. */
  #missing = false;
  /** Attempts of the migrations whose state is no longer kept. */
  #attempts = 0;
  #wentBack = 0;

  constructor(options: InspectOptions) {
    this.#options = options;
  }

  get found(): boolean {
    return this.#findings.length > 0;
  }

  take(): Finding[] {
    const findings = this.#findings;
    this.#findings = [];
    return findings;
  }

  item(item: RecordedItem): void {
    switch (item.type) {
      case 'frame':
        this.#frame(item);
        break;
      case 'recording': {
        const { offset, software } = item;
        this.#add({ event: 'recording', offset, startedAt: dateOf(item.startedAt), software });
        break;
      }
      case 'link': {
        const { offset, link, side, peer, atMicros } = item;
        this.#add({ event: 'link', offset, atMs: atMicros / 1000, link, side, peer });
        break;
      }
      case 'streamEnd': {
        const { offset, link, stream, sender, error } = item;
        if (error === undefined) break;
        this.#add({ event: 'lost', offset, atMs: item.atMicros / 1000, track: { link, stream, sender }, ...error });
        break;
      }
      case 'recordingEnd':
        this.#recordingEnd(item);
        break;
      case 'broken': {
        const { code, message } = item.error;
        this.#broken = true;
        this.#add({ event: 'broken', offset: item.offset, code, message });
      }
    }
  }

  end(): void {
    for (const audit of this.#links.values()) audit.end();
    for (const migration of this.#migrations.values()) this.#over(migration);
    const summary: InspectionSummary = {
      event: 'summary',
      whole: !this.#broken && this.#violations === 0,
      violations: this.#violations,
      damages: 0,
      frames: this.#frames,
      pages: this.#pages,
      urgentPages: this.#urgentPages,
      bytes: this.#bytes,
      attempts: this.#attempts,
      wentBack: this.#wentBack,
      outcome: this.#outcome,
    };
    this.#add(summary);
  }

  #frame(item: RecordedFrame): void {
    const { offset, byteLength, payloadBytes, frame, track } = item;
    const atMs = item.atMicros === undefined ? undefined : item.atMicros / 1000;
    const tally = this.#frames[frame.type] ?? { count: 0, bytes: 0 };
    this.#frames[frame.type] = tally;
    tally.count++;
    tally.bytes += byteLength;
    this.#bytes += byteLength;
    if (this.#options.frames) {
      this.#add({ event: 'frame', offset, byteLength, payloadBytes, atMs, track, frame });
    } else if (!ADDED_UP.has(frame.type)) {
      this.#add({ event: 'message', offset, atMs, track, frame });
    }
    if (frame.type === 'switchover') this.#runState = frame.runState;
    if (frame.type === 'go') this.#outcome = { type: 'handed over' };
    this.#where(frame);
    if (frame.type === 'error' && (this.#outcome.type === 'unfinished' || this.#mayGoOn)) {
      this.#outcome = { type: 'failed', by: track?.sender, code: frame.code, message: frame.message };
    }
    this.#mayGoOn = this.#outcome.type === 'failed' && (frame.type === 'error' ? frame.retry : this.#mayGoOn);
    const carried = this.#audit(track?.link ?? 0).frame(item);
    if (carried?.sort === 'urgent') this.#urgentPages += carried.pages;
    else if (carried !== undefined) this.#pages[carried.sort] += carried.pages;
  }

  /** Notes what the destination says about its guest, and about the pages that are missing there. */
  #where(frame: Frame): void {
    const { type } = frame;
    if (type === 'missing' || type === 'back') this.#missing = type === 'missing';
    const resumed = type === 'resumed' ? frame.state : undefined;
    if (type === 'whole' || resumed === 'running') this.#missing = false;
    if (resumed === 'incomplete') this.#missing = true;
    if (type !== 'running' && type !== 'whole' && resumed !== 'running' && resumed !== 'incomplete') return;
    this.#outcome = { type: 'running', runState: this.#runState, ...(this.#missing && { incomplete: true as const }) };
  }

  #audit(link: number): LinkAudit {
    let audit = this.#links.get(link);
    if (audit === undefined) {
      audit = new LinkAudit(
        link,
        (finding) => this.#add(finding),
        (migrationId) => this.#migration(migrationId),
      );
      this.#links.set(link, audit);
      oldestBeyond(this.#links)?.end();
    }
    return audit;
  }

  #migration(migrationId: string): MigrationAudit {
    const known = this.#migrations.get(migrationId);
    if (known !== undefined) return known;
    const migration = new MigrationAudit((finding) => this.#add(finding));
    this.#migrations.set(migrationId, migration);
    const forgotten = oldestBeyond(this.#migrations);
    if (forgotten !== undefined) this.#over(forgotten);
    return migration;
  }

  #over(migration: MigrationAudit): void {
    migration.end();
    this.#attempts += migration.attempts;
    this.#wentBack += migration.wentBack;
  }

  #recordingEnd({ offset, frames, error }: Extract<RecordedItem, { type: 'recordingEnd' }>): void {
    if (error !== undefined) {
      this.#broken = true;
      const message = `the recording itself failed here (${error.code}): ${error.message}`;
      this.#add({ event: 'broken', offset, code: 'GODWIT_RECORDING_FAILED', message });
    }
    let found = 0;
    for (const tally of Object.values(this.#frames)) found += tally.count;
    if (found !== frames) {
      this.#add({ event: 'violation', offset, message: `the end says ${frames} frames, but there are ${found}` });
    }
  }

  #add(finding: Finding): void {
    if (finding.event === 'violation' && ++this.#violations > MOST_VIOLATIONS) return;
    this.#findings.push(finding);
  }
}

/** Removes and returns the oldest entry if there are more than are kept. */
function oldestBeyond<K, V>(kept: Map<K, V>): V | undefined {
  if (kept.size <= MOST_LINKS) return undefined;
  const [[key, value]] = kept as unknown as [[K, V]];
  kept.delete(key);
  return value;
}

/** A hostile file may have a number that is not a valid date. */
function dateOf(milliseconds: number): string {
  const date = new Date(milliseconds);
  return Number.isNaN(date.getTime()) ? `${milliseconds} ms since 1970` : date.toISOString();
}
