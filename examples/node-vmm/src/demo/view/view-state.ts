import type { FaultStatus, MigrationState, MigrationSummary, Progress, RoundRecord } from '@godwit/core';
import { PAGE_SIZE } from '../../guest/layout.js';
import type { GuestSpec } from '../../vmm/guest-spec.js';
import type { HostName, Phase, Result, RunSettings, TimedEvent } from '../demo-event.js';
import { newsText } from './news.js';

/** The message for a cancellation when the guest has moved and its last pages have not. */
export const LATE = 'too late to cancel: the guest runs there; the run ends once its last page has come';

const HISTORY = 120;
const CONSOLE_LINES = 400;

/** The state that the view draws, folded from the events so far. */
export interface ViewState {
  readonly guest:
    | { readonly spec: GuestSpec; readonly settings: RunSettings; readonly note: string | undefined }
    | undefined;
  readonly phase: Phase;
  readonly phaseSinceMs: number;
  readonly runsAt: HostName;
  readonly hop:
    | { readonly number: number; readonly from: HostName; readonly to: HostName; readonly peer: string }
    | undefined;
  readonly state: MigrationState;
  readonly rounds: readonly RoundRecord[];
  readonly current: { readonly round: number; readonly dirtyPages: number } | undefined;
  readonly progress: Progress | undefined;
  /** The share of the guest's time for which it is throttled. */
  readonly throttle: number;
  /** By post-copy, once the guest runs at its destination. */
  readonly faults: FaultStatus | undefined;
  readonly dirtyBytesPerSecond: readonly number[];
  readonly linkBytesPerSecond: readonly number[];
  readonly console: readonly { readonly host: HostName; readonly text: string }[];
  readonly notices: readonly { readonly text: string; readonly bad: boolean }[];
  /** The completed migrations, without their round records: only the terms are shown, and there may be hundreds. */
  readonly hops: readonly {
    readonly number: number;
    readonly to: HostName;
    readonly summary: Omit<MigrationSummary, 'rounds'>;
    readonly rounds: number;
    readonly guestGapMs: number | undefined;
  }[];
  readonly compared: { readonly pages: number; readonly verifyMs: number } | undefined;
  readonly checkedPages: number | undefined;
  readonly result: Result | undefined;
  readonly failure: { readonly code: string; readonly message: string } | undefined;
}

export const EMPTY_VIEW: ViewState = {
  guest: undefined,
  phase: 'booting',
  phaseSinceMs: 0,
  runsAt: 'source',
  hop: undefined,
  state: 'none',
  rounds: [],
  current: undefined,
  progress: undefined,
  throttle: 0,
  faults: undefined,
  dirtyBytesPerSecond: [],
  linkBytesPerSecond: [],
  console: [],
  notices: [],
  hops: [],
  compared: undefined,
  checkedPages: undefined,
  result: undefined,
  failure: undefined,
};

/** The next state of the view: a pure function, so that a recorded run can be replayed. */
export function reduce(view: ViewState, event: TimedEvent): ViewState {
  switch (event.event) {
    case 'guest':
      return { ...view, guest: { spec: event.spec, settings: event.settings, note: event.note } };
    case 'phase':
      return { ...view, phase: event.phase, phaseSinceMs: event.atMs };
    case 'console':
      return { ...view, console: [...view.console.slice(1 - CONSOLE_LINES), { host: event.host, text: event.text }] };
    case 'hop':
      return {
        ...view,
        hop: { number: event.hop, from: event.from, to: event.to, peer: event.peer },
        runsAt: event.from,
        rounds: [],
        current: undefined,
        progress: undefined,
        compared: undefined,
        faults: undefined,
      };
    case 'state': {
      const runsAt = event.state === 'postcopy-active' ? (view.hop?.to ?? view.runsAt) : view.runsAt;
      return { ...view, state: event.state, runsAt };
    }
    case 'faults': {
      const { event: _, atMs: __, ...faults } = event;
      return { ...view, faults };
    }
    case 'round-start':
      return { ...view, current: { round: event.round, dirtyPages: event.dirtyPages } };
    case 'progress': {
      const { event: _, atMs: __, ...progress } = event;
      return {
        ...view,
        progress,
        state: progress.state,
        dirtyBytesPerSecond: appended(view.dirtyBytesPerSecond, progress.dirtyPagesPerSecond * PAGE_SIZE),
        // Before the first page only the handshake is sent, whose rate says nothing about the link.
        linkBytesPerSecond: appended(view.linkBytesPerSecond, progress.rawBytes > 0 ? progress.wireBytesPerSecond : 0),
      };
    }
    case 'round': {
      const { event: _, atMs: __, ...round } = event;
      return { ...view, rounds: [...view.rounds, round], current: undefined };
    }
    case 'compared':
      return { ...view, compared: { pages: event.pages, verifyMs: event.verifyMs } };
    case 'migrated': {
      const { event: _, atMs: __, hop, rounds, ...summary } = event;
      const to = view.hop?.to ?? 'destination';
      return {
        ...view,
        runsAt: to,
        hops: [...view.hops, { number: hop, to, summary, rounds: rounds.length, guestGapMs: undefined }],
      };
    }
    case 'gap':
      return {
        ...view,
        hops: view.hops.map((hop) => (hop.number === event.hop ? { ...hop, guestGapMs: event.guestGapMs } : hop)),
      };
    case 'checked':
      return noticed(
        { ...view, checkedPages: event.pages },
        event.defects.map((text) => ({ text, bad: true })),
      );
    case 'warning':
      return noticed(view, [{ text: `${event.code}: ${event.message}`, bad: false }]);
    case 'went-back':
    case 'not-prepared':
    case 'prepared':
    case 'downtime-exceeded':
    case 'limit-unreachable':
    case 'connect-failed':
    case 'migration-failed':
      return noticed(view, [{ text: newsText(event), bad: false }]);
    case 'page':
      return noticed(view, [{ text: `the live page: ${event.url}`, bad: false }]);
    case 'defect':
      return noticed(view, [{ text: `${event.host}: ${event.message}`, bad: true }]);
    case 'host-gone':
      return noticed(view, [{ text: event.message, bad: true }]);
    case 'cancelling':
      return noticed(view, [{ text: event.late ? LATE : 'cancelling: the guest stays where it is', bad: false }]);
    case 'runs-on':
      return noticed(view, [
        {
          text: `the guest runs on at the ${event.host}: ${event.beats} heartbeats since, ${event.defects.length} defects`,
          bad: event.defects.length > 0,
        },
      ]);
    case 'completed': {
      const { event: _, atMs: __, ...result } = event;
      return { ...view, result, phase: 'done' };
    }
    case 'failed':
      return { ...view, failure: { code: event.code, message: event.message }, result: event.figures, phase: 'done' };
    case 'status':
      return { ...view, state: event.state };
    case 'throttle':
      return { ...view, throttle: event.fraction };
    case 'hosts':
    case 'bandwidth':
    case 'received':
    case 'memory':
    case 'switchover-start':
      return view;
  }
}

function noticed(view: ViewState, notices: ViewState['notices']): ViewState {
  return { ...view, notices: [...view.notices, ...notices].slice(-4) };
}

function appended(values: readonly number[], value: number): readonly number[] {
  return [...values.slice(1 - HISTORY), value];
}
