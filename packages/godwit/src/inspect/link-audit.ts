import type { Frame, HelloFrame } from '@godwit/core';
import { DIGEST_BYTES } from '@godwit/core/pages';
import { LinkPhases, type RecordedFrame } from '@godwit/transport';
import { DeviceAudit } from './device-audit.js';
import type { Finding, PagesBySort } from './finding.js';
import type { MigrationAudit } from './migration-audit.js';
import { RoundTally } from './round-tally.js';
import { checkNamed, checkRuns } from './run-audit.js';
import { UrgentAudit } from './urgent-audit.js';

/** Reads the frames of one link, adds up its rounds and devices, and checks every frame against the protocol. */
export class LinkAudit {
  readonly #link: number;
  readonly #report: (finding: Finding) => void;
  readonly #migrationOf: (migrationId: string) => MigrationAudit;
  #migration: MigrationAudit | undefined;
  #phases: LinkPhases | undefined;
  #hello: HelloFrame | undefined;
  #devices: DeviceAudit | undefined;
  #tally: RoundTally | undefined;
  #urgent: UrgentAudit | undefined;
  /** The last round that is over; `undefined` if the file does not tell. */
  #lastRound: number | undefined;

  /** `migrationOf` returns the audit of a migration, which its other links share. */
  constructor(link: number, report: (finding: Finding) => void, migrationOf: (migrationId: string) => MigrationAudit) {
    this.#link = link;
    this.#report = report;
    this.#migrationOf = migrationOf;
  }

  /** Returns the kind and number of pages that the frame carries. */
  frame(item: RecordedFrame): { readonly sort: keyof PagesBySort | 'urgent'; readonly pages: number } | undefined {
    const { frame, track } = item;
    this.#phases ??= new LinkPhases({ oneWay: track === undefined });
    this.#violation(item, this.#phases.take(frame, track?.sender, track?.stream));
    if (frame.type === 'hello') this.#begin(frame);
    this.#migration ??= this.#migrationOf('');
    this.#violation(item, this.#migration.take(item, this.#link));
    if (frame.type === 'requestPages' || this.#isAnswer(item)) return this.#urgently(item);
    switch (frame.type) {
      case 'welcome':
        this.#devices?.welcome();
        break;
      case 'resumed':
        this.#lastRound = Math.max(0, frame.round - 1);
        this.#violation(item, this.#devices?.resumed(frame.deviceSequences, frame.deviceResets));
        break;
      case 'pages':
      case 'zeroPages':
      case 'deltaPages':
      case 'compressedPages':
        return this.#pages(item, frame);
      case 'received':
      case 'owed':
      case 'missing':
        this.#named(item, checkNamed(this.#hello, frame.block, frame));
        break;
      case 'roundEnd':
        this.#roundEnd(item, frame.round, frame.pages);
        break;
      case 'roundAck':
        this.#acknowledged(item, frame.round, frame.pages);
        break;
      case 'device': {
        const { wrong, total } = this.#devices?.piece(frame, item.payloadBytes) ?? {};
        this.#violation(item, wrong);
        if (total !== undefined) this.#report({ event: 'device', link: this.#link, ...total });
        break;
      }
      case 'back':
        this.#devices?.back(frame.attempt);
        break;
      case 'awaitPieces':
      case 'loadEarly':
        this.#violation(item, this.#devices?.asked(frame.type, frame.deviceSequences));
        break;
      case 'prepare':
      case 'prepared':
        this.#violation(item, this.#devices?.asked(frame.type, frame.deviceSequences));
        break;
      case 'backAck':
        this.#violation(item, this.#devices?.backAck(frame.deviceResets));
        break;
      case 'loaded':
        this.#violation(item, this.#devices?.loaded(frame.device, frame.sequence, frame.attempt));
        break;
      case 'digests': {
        const pages = this.#runs(item, frame.block, frame.runs);
        this.#checkPayload(item, pages * DIGEST_BYTES, `${pages} digests of ${DIGEST_BYTES} bytes`);
        break;
      }
      default:
    }
    return undefined;
  }

  /** Ends the audit: the file has no further frame of this link. */
  end(): void {
    this.#endRound(undefined, undefined);
    const urgent = this.#urgent?.result(this.#link);
    if (urgent !== undefined) this.#report(urgent);
  }

  /**
   * Whether the frame has pages of the urgent channel. A capture of that channel alone does not say which channel it
   * is.
   */
  #isAnswer({ frame, track }: RecordedFrame): boolean {
    if (frame.type !== 'pages') return false;
    return track === undefined
      ? this.#hello === undefined && frame.round === 0
      : this.#phases?.isUrgent(track.stream) === true;
  }

  #urgently(item: RecordedFrame): { readonly sort: 'urgent'; readonly pages: number } | undefined {
    const { frame } = item;
    this.#urgent ??= new UrgentAudit();
    if (frame.type === 'requestPages') {
      this.#named(item, checkRuns(this.#hello, frame.block, [frame.page, frame.pages]));
      this.#violation(item, this.#urgent.request(frame, item.byteLength));
    }
    if (frame.type !== 'pages') return undefined;
    const pages = this.#contents(item, frame);
    this.#violation(item, this.#urgent.answer(frame, pages, item));
    return { sort: 'urgent', pages };
  }

  #begin(hello: HelloFrame): void {
    this.#hello = hello;
    this.#migration = this.#migrationOf(hello.migrationId);
    this.#devices = new DeviceAudit(hello);
    this.#lastRound = 0;
  }

  #pages(
    item: RecordedFrame,
    frame: Extract<Frame, { runs: readonly number[]; round: number }>,
  ): { readonly sort: keyof PagesBySort; readonly pages: number } | undefined {
    const pages = this.#contents(item, frame);
    const sort = this.#round(item, frame.round).add(item, pages);
    return sort === undefined ? undefined : { sort, pages };
  }

  /** Returns the number of pages in a frame, and checks that its payload has as many. */
  #contents(item: RecordedFrame, frame: Extract<Frame, { runs: readonly number[]; round: number }>): number {
    const pages = this.#runs(item, frame.block, frame.runs);
    const { pageSize = 0 } = this.#hello ?? {};
    if (frame.type === 'pages' && pageSize > 0) {
      this.#checkPayload(item, pages * pageSize, `${pages} pages of ${pageSize} bytes`);
    }
    return pages;
  }

  #runs(item: RecordedFrame, block: number, runs: readonly number[]): number {
    return this.#named(item, checkRuns(this.#hello, block, runs));
  }

  #named(item: RecordedFrame, { pages, wrong }: ReturnType<typeof checkRuns>): number {
    if (wrong !== undefined) this.#violation(item, `a "${item.frame.type}" frame ${wrong}`);
    return pages;
  }

  #checkPayload(item: RecordedFrame, expected: number, what: string): void {
    if (item.payloadBytes === expected) return;
    this.#violation(item, `a "${item.frame.type}" frame with ${what}, but a payload of ${item.payloadBytes} bytes`);
  }

  #roundEnd(item: RecordedFrame, round: number, pages: number): void {
    const tally = this.#round(item, round);
    const stream = item.track?.stream ?? 0;
    const found = tally.pagesOn(stream);
    if (found === pages) return;
    this.#violation(
      item,
      `the end of round ${round} on stream ${stream} says ${pages} pages, but the file has ${found}`,
    );
  }

  #acknowledged(item: RecordedFrame, round: number, pages: number): void {
    const tally = this.#tally;
    if (tally === undefined || tally.round !== round) {
      // A capture of only the destination's direction has no rounds to compare with.
      const last = item.track === undefined ? undefined : this.#lastRound;
      if (last !== undefined && round !== last + 1) {
        this.#violation(item, `round ${round} is acknowledged, but round ${last} was the last`);
      }
      this.#lastRound = round;
      return;
    }
    if (tally.total !== pages) {
      this.#violation(item, `round ${round} is acknowledged with ${pages} pages, but the file has ${tally.total}`);
    }
    this.#endRound(pages, item.atMicros);
  }

  #round(item: RecordedFrame, round: number): RoundTally {
    if (this.#tally?.round === round) return this.#tally;
    const before = this.#tally?.round ?? this.#lastRound;
    // A bare stream has no acknowledgements, so that the previous round ends here.
    const unacknowledged = this.#tally !== undefined && item.track !== undefined;
    if (before !== undefined && (round !== before + 1 || unacknowledged)) {
      const state = unacknowledged ? `round ${before}, which is not acknowledged` : `round ${before}`;
      this.#violation(item, `a "${item.frame.type}" frame of round ${round} follows ${state}`);
    }
    this.#endRound(undefined, item.atMicros);
    this.#tally = new RoundTally(this.#link, round);
    return this.#tally;
  }

  #endRound(acknowledged: number | undefined, atMicros: number | undefined): void {
    const tally = this.#tally;
    if (tally === undefined) return;
    this.#tally = undefined;
    this.#lastRound = tally.round;
    this.#report(tally.result(acknowledged, atMicros));
  }

  #violation(item: RecordedFrame, message: string | undefined): void {
    if (message !== undefined) this.#report({ event: 'violation', offset: item.offset, message });
  }
}
