import type { FrameName } from './frame.js';

/**
 * The protocol as data: which frames each role may **receive** in each of its phases, on the control stream. The engine checks
 * every frame against it before it looks at what the frame says; the file transport, `inspect`, the fuzzers, the wire-format
 * specification and the test of the Spin model read the same table.
 *
 * A frame that is not listed is a violation: `GODWIT_PROTOCOL`. `ping`, `pong` and `error` are legal in every phase
 * (`ALWAYS`). Page frames come on the page channels where there are any, else on the control stream.
 */
export type Role = 'source' | 'destination';

/** Legal in every phase, in both directions. */
export const ALWAYS: readonly FrameName[] = ['ping', 'pong', 'error'];

/** Frames that belong to a page channel; on the control stream only where a migration has no page channels. */
export const PAGE_CHANNEL_FRAMES: readonly FrameName[] = [
  'pages',
  'zeroPages',
  'deltaPages',
  'compressedPages',
  'roundEnd',
];

/**
 * Phases of the source, as far as they differ in what may come.
 *
 * ```
 * greeting -> pre-copy -> stop-and-copy -> loading -> [verifying] -> deciding -> handing-over -> release
 *                ^              |             |            |            |
 *                +-- going-back <-------------+------------+------------+
 * ```
 */
export const SOURCE_PHASES = [
  /** `hello` is written. */
  'greeting',
  /** The guest runs here. */
  'pre-copy',
  /** The guest is paused; what is left is being sent. */
  'stop-and-copy',
  /** `switchover` is written. */
  'loading',
  /** Digests are being sent. */
  'verifying',
  /** The destination is `ready`: last checks, and the authority's word. */
  'deciding',
  /** `back` is written: answers to the attempt that was given up may still be on their way. */
  'going-back',
  /** `go` is written. */
  'handing-over',
  /** The guest runs there, or stays here: nothing more is asked. */
  'release',
] as const;

export type SourcePhaseName = (typeof SOURCE_PHASES)[number];

/** Phases of the destination, as far as they differ in what may come. */
export const DESTINATION_PHASES = [
  /** Nothing has come on the stream. */
  'greeting',
  /** `hello` was read, and the VM is being built. */
  'preparing',
  /** The guest runs at the source. */
  'receiving',
  /** `switchover` was read: devices load. */
  'loading',
  /** `ready` is written. */
  'ready',
  /** `go` was read. */
  'taking-over',
  /** The source keeps its guest, and says why. */
  'kept',
] as const;

export type DestinationPhaseName = (typeof DESTINATION_PHASES)[number];

export type PhaseName<R extends Role> = R extends 'source' ? SourcePhaseName : DestinationPhaseName;

export const PROTOCOL: {
  readonly source: Readonly<Record<SourcePhaseName, readonly FrameName[]>>;
  readonly destination: Readonly<Record<DestinationPhaseName, readonly FrameName[]>>;
} = {
  source: {
    greeting: ['welcome', 'received', 'resumed'],
    'pre-copy': ['roundAck', 'owed', 'prepared', 'loaded'],
    'stop-and-copy': ['roundAck', 'owed', 'prepared', 'loaded'],
    loading: ['ready', 'owed', 'prepared', 'loaded'],
    verifying: ['verified'],
    deciding: [],
    'going-back': ['backAck', 'roundAck', 'ready', 'verified', 'owed', 'prepared', 'loaded'],
    'handing-over': ['running'],
    release: [],
  },
  destination: {
    greeting: ['hello'],
    preparing: [],
    receiving: [...PAGE_CHANNEL_FRAMES, 'device', 'prepare', 'switchover', 'back'],
    loading: ['back'],
    ready: ['digests', 'digestsEnd', 'go', 'back'],
    'taking-over': ['released'],
    kept: [],
  },
};

/** Whether `role` may receive a frame of this type on the control stream while it is in `phase`. */
export function isLegal<R extends Role>(role: R, phase: PhaseName<R>, type: FrameName): boolean {
  const phases = PROTOCOL[role] as Readonly<Record<string, readonly FrameName[]>>;
  return ALWAYS.includes(type) || (phases[phase]?.includes(type) ?? false);
}
