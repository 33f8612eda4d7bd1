import type { FrameName } from './frame-types.js';

/**
 * The protocol as data: the frames that each role may **receive** in each of its phases, on the control stream. The engine checks
 * every frame against it before it handles the frame; the file transport, `inspect`, the fuzzers, the wire-format specification and
 * the test of the Spin model read the same table.
 *
 * A frame that is not listed ends the connection with `GODWIT_PROTOCOL`. `ping`, `pong` and `error` are legal in every phase
 * (`ALWAYS`). Page frames come on the page channels if there are any, else on the control stream; `device` comes on either.
 */
export type Role = 'source' | 'destination';

/** Frames that are legal in every phase, in both directions. */
export const ALWAYS: readonly FrameName[] = ['ping', 'pong', 'error'];

/** Frames with pages; they come on the page channels, and on the control stream only if a migration has none. */
export const PAGE_CHANNEL_FRAMES: readonly FrameName[] = [
  'pages',
  'zeroPages',
  'deltaPages',
  'compressedPages',
  'roundEnd',
];

/** Frames of the urgent channel, in either direction: the last stream that the hello announces, where `postcopy` was agreed on. */
export const URGENT_FRAMES: readonly FrameName[] = ['requestPages', 'pages'];

/** Frames that may come on a page channel as well as on the control stream. */
export const ANY_STREAM_FRAMES: readonly FrameName[] = ['device'];

/**
 * Phases of the source, as far as they differ in their legal frames.
 *
 * ```
 * greeting -> pre-copy -> stop-and-copy -> loading -> [verifying] -> deciding -> handing-over -> [post-copy] -> release
 *                ^              |             |            |            |
 *                +-- going-back <-------------+------------+------------+
 * ```
 */
export const SOURCE_PHASES = [
  /** `hello` is written. */
  'greeting',
  /** The guest runs here. */
  'pre-copy',
  /** The guest is paused; the remaining pages and the device state are being sent. */
  'stop-and-copy',
  /** `switchover` is written. */
  'loading',
  /** Digests are being sent. */
  'verifying',
  /** `ready` was read: the last checks, and the authority's answer. */
  'deciding',
  /** `back` is written: answers to the attempt that was given up may still come. */
  'going-back',
  /** `go` is written. */
  'handing-over',
  /** The guest runs at the destination, and pages are missing there. */
  'post-copy',
  /** The guest runs at the destination, or stays at the source: no answer is waited for. */
  'release',
] as const;

/** The name of a phase of the source. */
export type SourcePhaseName = (typeof SOURCE_PHASES)[number];

/** Phases of the destination, as far as they differ in their legal frames. */
export const DESTINATION_PHASES = [
  /** No frame was read yet. */
  'greeting',
  /** `hello` was read, and the VM is being built. */
  'preparing',
  /** `welcome` is written, as the answer to a dry run. */
  'dry-run',
  /** The guest runs at the source. */
  'receiving',
  /** `switchover` was read, and all pieces of device state have come: devices load. */
  'loading',
  /** `ready` is written. */
  'ready',
  /** `go` was read. */
  'taking-over',
  /** The guest runs here, and pages are missing. */
  'post-copy',
  /** The source keeps its guest; the source's `error` with the reason follows. */
  'kept',
] as const;

/** The name of a phase of the destination. */
export type DestinationPhaseName = (typeof DESTINATION_PHASES)[number];

/** The name of a phase of either role. */
export type PhaseName<R extends Role> = R extends 'source' ? SourcePhaseName : DestinationPhaseName;

/** Which frames each role may read on the control stream, by its phase. */
export const PROTOCOL: {
  readonly source: Readonly<Record<SourcePhaseName, readonly FrameName[]>>;
  readonly destination: Readonly<Record<DestinationPhaseName, readonly FrameName[]>>;
} = {
  source: {
    greeting: ['welcome', 'received', 'missing', 'resumed'],
    'pre-copy': ['roundAck', 'owed', 'prepared', 'loaded', 'arrived'],
    'stop-and-copy': ['roundAck', 'owed', 'prepared', 'loaded', 'arrived'],
    loading: ['ready', 'owed', 'prepared', 'loaded', 'arrived'],
    verifying: ['verified'],
    deciding: [],
    'going-back': ['backAck', 'roundAck', 'ready', 'verified', 'owed', 'prepared', 'loaded', 'arrived'],
    'handing-over': ['running'],
    'post-copy': ['roundAck', 'whole'],
    release: [],
  },
  destination: {
    greeting: ['hello'],
    preparing: [],
    'dry-run': ['probe'],
    receiving: [
      ...PAGE_CHANNEL_FRAMES,
      'device',
      'prepare',
      'awaitPieces',
      'loadEarly',
      'missing',
      'switchover',
      'back',
      'probe',
    ],
    loading: ['back'],
    ready: ['digests', 'digestsEnd', 'go', 'back'],
    'taking-over': ['released'],
    'post-copy': [...PAGE_CHANNEL_FRAMES, 'released'],
    kept: [],
  },
};

/**
 * Whether `role` may receive a frame of this type on the control stream while it is in `phase`.
 *
 * @example
 * isLegal('destination', 'receiving', 'pages'); // true
 */
export function isLegal<R extends Role>(role: R, phase: PhaseName<R>, type: FrameName): boolean {
  const phases = PROTOCOL[role] as Readonly<Record<string, readonly FrameName[]>>;
  return ALWAYS.includes(type) || (phases[phase]?.includes(type) ?? false);
}
