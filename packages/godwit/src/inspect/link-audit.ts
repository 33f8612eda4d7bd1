import type { DeviceFrame, Frame, HelloFrame } from '@godwit/core';
import type { RecordedFrame } from '@godwit/transport';
import type { Finding, PagesBySort } from './finding.js';
import { carriesPages, RoundTally } from './round-tally.js';
import { checkRuns } from './run-audit.js';

/** Bytes of a digest: docs/wire-format.md, section 7. */
const DIGEST_BYTES = 8;

/** Reads along the frames of one link, adds up its rounds and devices, and holds every frame to the protocol. */
export class LinkAudit {
  readonly #link: number;
  readonly #report: (finding: Finding) => void;
  #hello: HelloFrame | undefined;
  #tally: RoundTally | undefined;
  /** The last round that is over. */
  #lastRound = 0;
  readonly #devices = new Map<number, { pieces: number; bytes: number }>();
  #switchover = false;
  #go = false;

  constructor(link: number, report: (finding: Finding) => void) {
    this.#link = link;
    this.#report = report;
  }

  /** Returns the kind and number of pages that the frame carries. */
  frame(item: RecordedFrame): { readonly sort: keyof PagesBySort; readonly pages: number } | undefined {
    const { frame } = item;
    this.#checkOrder(item);
    switch (frame.type) {
      case 'hello':
        this.#hello = frame;
        break;
      case 'resumed':
        this.#lastRound = Math.max(0, frame.round - 1);
        break;
      case 'pages':
      case 'zeroPages':
      case 'deltaPages':
      case 'compressedPages':
        return this.#pages(item, frame);
      case 'roundEnd':
        this.#roundEnd(item, frame.round, frame.pages);
        break;
      case 'roundAck':
        this.#acknowledged(item, frame.round, frame.pages);
        break;
      case 'device':
        this.#device(item, frame);
        break;
      case 'digests': {
        const pages = this.#runs(item, frame.block, frame.runs);
        this.#checkPayload(item, pages * DIGEST_BYTES, `${pages} digests of ${DIGEST_BYTES} bytes`);
        break;
      }
      case 'switchover':
        this.#switchover = true;
        break;
      case 'go':
        this.#go = true;
        break;
      default:
    }
    return undefined;
  }

  /** The file has nothing more of this link. */
  end(): void {
    this.#endRound(undefined, undefined);
  }

  #checkOrder(item: RecordedFrame): void {
    const { frame, track } = item;
    if (this.#hello === undefined && track !== undefined && frame.type !== 'hello' && frame.type !== 'error') {
      // Once; then the inspection goes on with what it has.
      this.#hello = NOTHING;
      this.#violation(item, `the first frame of link ${this.#link} is "${frame.type}"; a "hello" begins it`);
    }
    if (this.#go && (frame.type === 'switchover' || frame.type === 'device')) {
      this.#violation(item, `a "${frame.type}" frame after "go"`);
    }
    if (this.#switchover && (carriesPages(frame.type) || frame.type === 'roundEnd')) {
      this.#violation(item, `a "${frame.type}" frame after "switchover"`);
    }
  }

  #pages(
    item: RecordedFrame,
    frame: Extract<Frame, { runs: readonly number[]; round: number }>,
  ): { readonly sort: keyof PagesBySort; readonly pages: number } | undefined {
    const pages = this.#runs(item, frame.block, frame.runs);
    const { pageSize = 0 } = this.#hello ?? {};
    if (frame.type === 'pages' && pageSize > 0) {
      this.#checkPayload(item, pages * pageSize, `${pages} pages of ${pageSize} bytes`);
    }
    const sort = this.#round(item, frame.round).add(item, pages);
    return sort === undefined ? undefined : { sort, pages };
  }

  #runs(item: RecordedFrame, block: number, runs: readonly number[]): number {
    const { pages, wrong } = checkRuns(this.#hello, block, runs);
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
      // A capture of the destination's direction alone has no rounds to compare with.
      if (item.track !== undefined && round !== this.#lastRound + 1) {
        this.#violation(item, `round ${round} is acknowledged, but round ${this.#lastRound} was the last`);
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
    const expected = (this.#tally?.round ?? this.#lastRound) + 1;
    // A bare stream has no acknowledgements, so that the round before ends here.
    const unacknowledged = this.#tally !== undefined && item.track !== undefined;
    if (this.#hello !== undefined && (round !== expected || unacknowledged)) {
      const state = unacknowledged ? `round ${expected - 1}, which is not acknowledged` : `round ${expected - 1}`;
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

  #device(item: RecordedFrame, { device, sequence, last }: DeviceFrame): void {
    const id = this.#hello?.devices[device]?.id;
    if (id === undefined) {
      if (this.#hello !== undefined && this.#hello !== NOTHING) {
        this.#violation(item, `a piece of device ${device}; the hello lists ${this.#hello.devices.length} devices`);
      }
      return;
    }
    const state = this.#devices.get(device) ?? { pieces: 0, bytes: 0 };
    // Over a further connection, pieces go on where the destination asks for them.
    if (sequence !== state.pieces && state.pieces > 0) {
      this.#violation(item, `piece ${sequence} of device "${id}" follows ${state.pieces} pieces`);
    }
    state.pieces = sequence + 1;
    state.bytes += item.payloadBytes;
    this.#devices.set(device, state);
    if (last) this.#report({ event: 'device', link: this.#link, id, ...state });
  }

  #violation(item: RecordedFrame, message: string): void {
    this.#report({ event: 'violation', offset: item.offset, message });
  }
}

/** In the place of a hello that is missing. */
const NOTHING: HelloFrame = {
  type: 'hello',
  minimumVersion: 0,
  maximumVersion: 0,
  migrationId: '',
  software: '',
  pageSize: 0,
  blocks: [],
  devices: [],
  features: [],
  pageChannels: 0,
  description: null,
  connection: 0,
  stage: 'running',
  attempt: 1,
};
