import type { Frame } from '@godwit/core';
import {
  DESTINATION_MACHINE,
  guestPlace,
  LastItems,
  type LogEntry,
  type MigrationModel,
  MOST_LOG_ENTRIES,
  MOST_ROUNDS,
  MOST_SAMPLES,
  type PlainError,
  type RoundModel,
  SampleSeries,
  SOURCE_MACHINE,
  StateHistory,
  shortened,
  ThinnedList,
} from '@godwit/observe/model';
import type { Sender } from '@godwit/transport';
import type { Finding } from '../inspect/finding.js';
import { logLine } from './finding-line.js';

type Found<E extends Finding['event']> = Extract<Finding, { event: E }>;

/** The time over which bytes are added up for one point of the rate's curve, in milliseconds. */
const RATE_STEP_MS = 100;

/**
 * A recorded migration as `@godwit/observe` shows migrations: folded from what an inspection finds in the file. The frames show the states
 * of both sides, the rounds and the rate; only the engine knows predictions, trackers and the guest's downtime.
 */
export class RecordedMigration {
  readonly #title: string;
  readonly #rounds = new ThinnedList<RoundModel>(MOST_ROUNDS);
  readonly #samples = new SampleSeries(MOST_SAMPLES);
  readonly #log = new LastItems<LogEntry>(MOST_LOG_ENTRIES);
  readonly #source = new StateHistory(SOURCE_MACHINE, 'none');
  readonly #destination = new StateHistory(DESTINATION_MACHINE, 'none');
  readonly #pages = { raw: 0, zero: 0, delta: 0, compressed: 0 };
  #sourceOwns = 'running';
  #destinationOwns = 'receiving';
  #startedAt = '';
  #id: string | null = null;
  #peer: string | null = null;
  #pageSize: number | null = null;
  #attempts = 0;
  #round = 0;
  #wireBytes = 0;
  #deviceBytes = 0;
  /** The round that the frame `switchover` names: the one that was sent during the pause, or by post-copy the last one before it. */
  #lastRound = 0;
  /** Whether the source has named pages that are missing when the guest starts: the switchover is then one by post-copy. */
  #byPostcopy = false;
  #newest: { -readonly [Field in keyof RoundModel]: RoundModel[Field] } | undefined;
  #resumeMs: number | null = null;
  #error: PlainError | null = null;
  #nowMs = 0;
  #stepBytes = 0;
  #stepFromMs = 0;

  /** `title` is the report's heading. */
  constructor(title: string) {
    this.#title = title;
    this.#source.enter('none', 0);
    this.#destination.enter('none', 0);
  }

  /** Takes the next finding of an inspection with `frames`. */
  take(finding: Finding): void {
    if ('atMs' in finding && finding.atMs !== undefined) this.#nowMs = Math.max(this.#nowMs, finding.atMs);
    switch (finding.event) {
      case 'recording':
        this.#startedAt = finding.startedAt;
        break;
      case 'link':
        if (finding.side === 'source') this.#peer = finding.peer;
        break;
      case 'frame':
        this.#frame(finding);
        break;
      case 'round':
        this.#roundEnded(finding);
        break;
      case 'attempt':
        this.#attempts = Math.max(this.#attempts, finding.attempt);
        break;
      case 'urgent':
        this.#pages.raw += finding.pages;
        break;
      case 'lost':
        this.#lost();
        break;
      default:
    }
    const line = logLine(finding);
    if (line !== undefined) this.#log.add({ atMs: this.#nowMs, ...line, text: shortened(line.text) });
  }

  model(): MigrationModel {
    const pages = Object.values(this.#pages).reduce((sum, count) => sum + count, 0);
    return {
      format: 'godwit-migration/1',
      title: this.#title,
      origin: 'recording',
      startedAt: this.#startedAt,
      elapsedMs: this.#nowMs,
      over: true,
      guest: guestPlace(this.#sourceOwns, this.#destinationOwns, this.#source.state),
      source: {
        id: this.#id,
        states: this.#source.model(),
        ownership: this.#sourceOwns,
        attempt: Math.max(1, this.#attempts),
        downtimeLimitMs: null,
        bandwidthLimit: null,
        progress: {
          ...{ round: this.#round, roundPagesSent: 0, roundPages: 0, pages: this.#pages },
          ...{ rawBytes: pages * (this.#pageSize ?? 0), wireBytes: this.#wireBytes, deviceBytes: this.#deviceBytes },
          ...{ savedBytes: 0, wireBytesPerSecond: 0, dirtyPagesPerSecond: 0, throttle: 0 },
          ...{ predictedDowntimeMs: null, remainingMs: null, remainingRangeMs: null },
        },
        pageSize: this.#pageSize,
        trackers: [],
        downtime: null,
        summary: null,
        error: this.#error,
      },
      destination: {
        id: this.#id,
        peer: this.#peer,
        states: this.#destination.model(),
        ownership: this.#destinationOwns,
        round: this.#round,
        pages: this.#pages,
        wireBytes: this.#wireBytes,
        faults: null,
        loadMs: null,
        resumeMs: this.#resumeMs,
        error: null,
      },
      samples: this.#samples.columns,
      rounds: { count: this.#rounds.count, kept: this.#rounds.all },
      log: { dropped: this.#log.dropped, entries: this.#log.all },
    };
  }

  #frame({ frame, byteLength, payloadBytes, track }: Found<'frame'>): void {
    // A captured stream does not tell who sent it; pages in it can only be the source's.
    if (track === undefined || track.sender === 'source') this.#sent(byteLength);
    if (frame.type === 'device') this.#deviceBytes += payloadBytes;
    this.#enter(frame, track?.sender);
  }

  /** Takes from a frame what it tells about the states of the two sides. */
  #enter(frame: Frame, sender: Sender | undefined): void {
    const now = this.#nowMs;
    switch (frame.type) {
      case 'hello':
        this.#id = frame.migrationId;
        this.#pageSize = frame.pageSize;
        this.#error = null;
        if (this.#source.state === 'none') this.#source.enter('setup', now);
        if (this.#destination.state === 'none') this.#destination.enter('setup', now);
        if (frame.stage === 'running') {
          // A source whose guest runs again has given up the attempt that its last connection was in, and pages that it has named.
          if (this.#sourceOwns === 'paused') this.#wentBack();
          this.#byPostcopy = false;
        }
        if (frame.stage === 'handedOver' && this.#source.state.startsWith('postcopy-')) this.#both('postcopy-recover');
        break;
      case 'missing':
        if (sender === 'source') this.#byPostcopy = true;
        break;
      case 'welcome':
        this.#agreed();
        break;
      case 'resumed':
        if (frame.state === 'running') this.#arrived();
        else if (frame.state === 'incomplete') this.#both('postcopy-active');
        else this.#agreed();
        break;
      case 'switchover':
        this.#attempts = Math.max(this.#attempts, frame.attempt);
        this.#lastRound = frame.round;
        if (this.#newest?.round === frame.round && !this.#byPostcopy) this.#newest.phase = 'stop-and-copy';
        this.#source.enter(this.#byPostcopy ? 'postcopy-device' : 'device', now);
        this.#destination.enter('device', now);
        this.#sourceOwns = 'paused';
        break;
      case 'ready':
        this.#destinationOwns = 'ready';
        break;
      case 'back':
        this.#wentBack();
        break;
      case 'go':
        this.#sourceOwns = 'handedOver';
        this.#destinationOwns = 'asking';
        break;
      case 'running':
        this.#resumeMs = frame.resumeMs;
        this.#destinationOwns = 'running';
        if (this.#byPostcopy) this.#both('postcopy-active');
        else this.#arrived();
        break;
      case 'whole':
        this.#arrived();
        break;
      case 'released':
        this.#destinationOwns = 'settled';
        break;
      case 'error':
        this.#failed(frame);
        break;
      default:
    }
  }

  /** Both sides agree on what moves, and pages follow. */
  #agreed(): void {
    if (!this.#source.state.endsWith('device')) this.#source.enter('active', this.#nowMs);
    if (this.#destination.state === 'setup') this.#destination.enter('active', this.#nowMs);
  }

  /** The attempt is given up: the guest runs at the source again. */
  #wentBack(): void {
    this.#both('active');
    this.#sourceOwns = 'running';
    this.#destinationOwns = 'receiving';
    this.#byPostcopy = false;
  }

  /** The destination runs the guest, with all its pages. */
  #arrived(): void {
    this.#both('completed');
    this.#sourceOwns = 'released';
    if (this.#destinationOwns !== 'settled') this.#destinationOwns = 'running';
  }

  #lost(): void {
    if (this.#source.state === 'active') this.#source.enter('reconnecting', this.#nowMs);
    if (this.#source.state === 'postcopy-active') this.#both('postcopy-paused');
  }

  #both(state: string): void {
    this.#source.enter(state, this.#nowMs);
    this.#destination.enter(state, this.#nowMs);
  }

  /** An error with `retry` ends the connection, and not the migration. */
  #failed({ code, message, retry }: Extract<Frame, { type: 'error' }>): void {
    if (this.#sourceOwns === 'handedOver' || this.#sourceOwns === 'released') return;
    this.#error = { code, message: shortened(message) };
    if (retry) {
      if (this.#source.state === 'active') this.#source.enter('reconnecting', this.#nowMs);
      return;
    }
    const state = code === 'GODWIT_CANCELLED' ? 'cancelled' : 'failed';
    this.#source.enter(state, this.#nowMs);
    this.#destination.enter('failed', this.#nowMs);
    this.#sourceOwns = 'kept';
    this.#destinationOwns = 'abandoned';
  }

  #roundEnded({ round, pages, bytes, durationMs }: Found<'round'>): void {
    this.#round = round;
    const dirtyPages = pages.raw + pages.zero + pages.delta + pages.compressed;
    for (const kind of ['raw', 'zero', 'delta', 'compressed'] as const) this.#pages[kind] += pages[kind];
    const seconds = (durationMs ?? 0) / 1000;
    this.#newest = {
      ...{
        round,
        phase: this.#phaseOf(round),
        atMs: this.#nowMs,
        dirtyPages,
      },
      ...{ deferredPages: 0, newlyDirtyPages: null, pages: { ...pages }, rawBytes: dirtyPages * (this.#pageSize ?? 0) },
      ...{
        wireBytes: bytes,
        deviceBytes: 0,
        savedBytes: 0,
        harvestMs: null,
        scanMs: null,
        sendMs: null,
        limitMs: null,
      },
      ...{ totalMs: durationMs ?? null, throttle: 0, linkBytesPerSecond: seconds > 0 ? bytes / seconds : null },
      ...{ dirtyPagesPerSecond: null, predictedDowntimeMs: null, predictedDowntimeRangeMs: null, trackers: [] },
      ...{ action: null, reason: null },
    };
    this.#rounds.add(this.#newest);
  }

  #phaseOf(round: number): string {
    if (this.#byPostcopy) return round > this.#lastRound && this.#lastRound > 0 ? 'post-copy' : 'pre-copy';
    return round === this.#lastRound ? 'stop-and-copy' : 'pre-copy';
  }

  #sent(bytes: number): void {
    this.#wireBytes += bytes;
    // In steps without a frame the rate is 0; of a long series of such steps, the first and the last point are enough.
    if (this.#nowMs - this.#stepFromMs >= 2 * RATE_STEP_MS) {
      this.#step(this.#stepFromMs + RATE_STEP_MS);
      this.#step(this.#nowMs - RATE_STEP_MS);
    }
    if (this.#nowMs - this.#stepFromMs >= RATE_STEP_MS) this.#step(this.#nowMs);
    this.#stepBytes += bytes;
  }

  #step(atMs: number): void {
    const seconds = (atMs - this.#stepFromMs) / 1000;
    const rate = seconds > 0 ? this.#stepBytes / seconds : 0;
    this.#samples.add({ atMs, wire: rate, link: null, limit: null, dirty: null, downtime: null, throttle: null });
    this.#stepFromMs = atMs;
    this.#stepBytes = 0;
  }
}
