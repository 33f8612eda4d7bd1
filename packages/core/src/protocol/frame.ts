import type { NamedPages } from '../memory/named-pages.js';

/*
 * The fields of each message. `frame-types.ts` says what the messages are for, `protocol-table.ts` when each is legal.
 */

/** A RAM block, as a hello describes it. */
export interface BlockDescription {
  readonly id: string;
  readonly guestPhysicalAddress: number;
  readonly byteLength: number;
  /** The identity of the memory (`RamBlock.identity`), or empty. A destination refuses to receive into the source's own memory. */
  readonly identity: string;
  /** Both sides map the same memory for this block, whose pages do not travel. Only with the feature `shared`. */
  readonly shared?: true;
  /** The guest cannot write this block. */
  readonly readOnly?: true;
}

/** A device with state, as a hello describes it. */
export interface DeviceDescription {
  readonly id: string;
  readonly version: number;
  /** Bytes that the device expects its `save` to yield; 0 where the device does not report it. */
  readonly stateBytes: number;
}

/** The first frame of a control stream: what the source has, and what it offers. */
export interface HelloFrame {
  readonly type: 'hello';
  /** Range of protocol versions that the source speaks. */
  readonly minimumVersion: number;
  readonly maximumVersion: number;
  /** 32 hex digits, fresh for every migration; the page channels and a reconnection name it. */
  readonly migrationId: string;
  /** Name and version of the sender, for messages. */
  readonly software: string;
  readonly pageSize: number;
  readonly blocks: readonly BlockDescription[];
  readonly devices: readonly DeviceDescription[];
  /** Features that the source offers (`FEATURES`, and `encoding:` names). */
  readonly features: readonly string[];
  /**
   * Streams beside the control stream; 0 means that pages travel on the control stream. With the feature `postcopy` the last of them is the
   * urgent channel, which carries no other pages.
   */
  readonly pageChannels: number;
  /** The embedder's own description of the VM: any value that MessagePack can encode. */
  readonly description: unknown;
  /** Number of this connection of the migration: 1, 2, 3, ... A connection with a higher number replaces those before it. */
  readonly connection: number;
  /** The state of the source. A migration begins only with a hello in stage `running`. */
  readonly stage: HelloStage;
  /** Number of the stop-and-copy that the source is in (`paused`) or makes next (`running`), from 1. */
  readonly attempt: number;
}

/**
 * The state of a source that connects: in pre-copy (`running`), in stop-and-copy with everything sent (`paused`), past `go`
 * (`handedOver`), or ended before `go` (`kept`). `dryRun` asks whether the migration is possible, and ends with the answer.
 */
export const HELLO_STAGES = ['running', 'paused', 'handedOver', 'kept', 'dryRun'] as const;

/** Where the source's ownership stands when it makes a connection. */
export type HelloStage = (typeof HELLO_STAGES)[number];

/** Destination: accepts the migration, with these features. */
export interface WelcomeFrame {
  readonly type: 'welcome';
  readonly version: number;
  /** The features of the hello that both sides use. */
  readonly features: readonly string[];
  readonly software: string;
  /** Most bytes of payload that this destination takes in one frame. */
  readonly maximumPayload: number;
  /** Names this VM of this process: 32 hex digits. A destination that was restarted has another one. */
  readonly incarnation: string;
  /** Most bytes of device state, of all devices together, that this destination holds before they are loaded. */
  readonly maximumDeviceState: number;
}

/** The last frame of a side that gives up, with its reason. */
export interface ErrorFrame {
  readonly type: 'error';
  readonly code: string;
  readonly message: string;
  /** Whether another attempt may succeed (`GodwitError.retry`). */
  readonly retry: boolean;
}

/** The first frame of a page channel: which migration it belongs to. */
export interface AttachFrame {
  readonly type: 'attach';
  readonly migrationId: string;
  readonly index: number;
  /** The `connection` of the hello to which this channel belongs. */
  readonly connection: number;
}

/** Pages as they are, which are the payload. */
export interface PagesFrame {
  readonly type: 'pages';
  readonly round: number;
  readonly block: number;
  /** Flat [first page, page count, ...]; the payload is the pages of all runs, one after the other. */
  readonly runs: readonly number[];
}

/** Pages of which every byte is zero; there is no payload. */
export interface ZeroPagesFrame {
  readonly type: 'zeroPages';
  readonly round: number;
  readonly block: number;
  readonly runs: readonly number[];
}

/** Pages as the bytes that have changed in them, which are the payload. */
export interface DeltaPagesFrame {
  readonly type: 'deltaPages';
  readonly round: number;
  readonly block: number;
  readonly runs: readonly number[];
}

/** Pages that are encoded whole, in one piece, which is the payload. */
export interface CompressedPagesFrame {
  readonly type: 'compressedPages';
  readonly round: number;
  readonly block: number;
  readonly runs: readonly number[];
  /** Name of the compression, as in the features: `zstd` for `encoding:zstd`. */
  readonly encoding: string;
}

/** Frames that have pages of any kind. */
export type AnyPagesFrame = PagesFrame | ZeroPagesFrame | DeltaPagesFrame | CompressedPagesFrame;

/** Source: this channel has no more pages of the round. */
export interface RoundEndFrame {
  readonly type: 'roundEnd';
  readonly round: number;
  /** Pages of any kind that were sent on this channel in this round, by which a lost frame is noticed. */
  readonly pages: number;
}

/** Destination: all pages of a round are in guest memory. */
export interface RoundAckFrame {
  readonly type: 'roundAck';
  readonly round: number;
  readonly pages: number;
}

/** A piece of a device's state, which is the payload. */
export interface DeviceFrame {
  readonly type: 'device';
  /** Index into the hello's devices. */
  readonly device: number;
  /** 0, 1, 2, ... per device: since its last reset while the guest runs, within the attempt while it is paused. */
  readonly sequence: number;
  readonly last: boolean;
  /** The stop-and-copy that this piece belongs to; 0 for a piece that is sent while the guest runs. */
  readonly attempt: number;
  /**
   * How often the device had been reset, as far as the source knew when it sent the piece. A piece with attempt 0 and a lower number than
   * the destination's is void: it was sent before the source knew of the reset. Absent: 0.
   */
  readonly resets?: number;
}

/** Source: the guest is paused, and everything has been sent. */
export interface SwitchoverFrame {
  readonly type: 'switchover';
  readonly round: number;
  readonly attempt: number;
  /** The state of the guest before this stop-and-copy, and so at the destination. */
  readonly runState: MovedRunState;
  /**
   * For each of the hello's devices, how many pieces with attempt 0 were sent: on page channels they may come later than this frame. Empty:
   * all pieces have come before this frame.
   */
  readonly deviceSequences?: readonly number[];
}

/** The states in which a guest is handed over; a guest that has ended is not migrated. */
export const MOVED_RUN_STATES = ['running', 'paused'] as const;

/** The state of a guest that is handed over, before the migration and after it. */
export type MovedRunState = (typeof MOVED_RUN_STATES)[number];

/** Destination: everything is loaded. */
export interface ReadyFrame {
  readonly type: 'ready';
  readonly attempt: number;
  /** How long loading device state took after the `switchover` frame, in milliseconds of the destination's clock. */
  readonly loadMs: number;
}

/** Source: the destination owns the guest from here on. */
export interface GoFrame {
  readonly type: 'go';
  readonly attempt: number;
}

/** Destination: the guest runs here. */
export interface RunningFrame {
  readonly type: 'running';
  /** How long resuming the guest took at the destination, in milliseconds. */
  readonly resumeMs: number;
  /** From `ready` to the running guest, in milliseconds of the destination's clock. */
  readonly sinceReadyMs: number;
}

/** Source: asks to be told when loading will be quick. */
export interface PrepareFrame {
  readonly type: 'prepare';
  readonly attempt: number;
  /** For each of the hello's devices, the sequence of the piece that will be sent next. */
  readonly deviceSequences: readonly number[];
}

/** Destination: loading will be quick from here on, with the expected times. */
export interface PreparedFrame {
  readonly type: 'prepared';
  readonly incarnation: string;
  readonly attempt: number;
  /** The sequences of the `prepare` that this answers. */
  readonly deviceSequences: readonly number[];
  /**
   * The expected time of loading: milliseconds that do not depend on bytes, and milliseconds for each MiB of state, each as the median and
   * the two ends of an interval that contains the actual time in nine cases of ten: six numbers. Empty or absent where the destination has
   * no estimate.
   */
  readonly load?: readonly number[];
  /** The expected time of starting the guest in the same form: three numbers, or none. */
  readonly resume?: readonly number[];
}

/** Source: the stop-and-copy is given up, and the guest runs on. */
export interface BackFrame {
  readonly type: 'back';
  readonly attempt: number;
}

/** Destination: the attempt is void, and pages may come again. */
export interface BackAckFrame {
  readonly type: 'backAck';
  readonly attempt: number;
  /** Per device: how often it has been reset. A device whose number has grown begins again, with piece 0. */
  readonly deviceResets: readonly number[];
}

export interface OwedFrame extends NamedPages {
  readonly type: 'owed';
  readonly block: number;
}

/** Destination: how much of a device's state has been loaded, so that more may be sent. */
export interface LoadedFrame {
  readonly type: 'loaded';
  readonly device: number;
  /** Every piece before this one has been taken. */
  readonly sequence: number;
  /** The stop-and-copy whose pieces are counted, after `loadEarly`: every piece with attempt 0 was taken before those. Absent: 0. */
  readonly attempt?: number;
}

/** Source: asks to be told when these pieces of device state have come. */
export interface AwaitPiecesFrame {
  readonly type: 'awaitPieces';
  readonly id: number;
  /** The stop-and-copy whose pieces are meant; 0 for those that are sent while the guest runs. */
  readonly attempt: number;
  /** For each of the hello's devices, the sequence of the first piece that is not waited for. */
  readonly deviceSequences: readonly number[];
}

/** Destination: every piece of device state that an `awaitPieces` asked for has come. */
export interface ArrivedFrame {
  readonly type: 'arrived';
  readonly id: number;
}

/** Source: there is more device state than the destination holds, so that devices have to load before `switchover`. */
export interface LoadEarlyFrame {
  readonly type: 'loadEarly';
  readonly attempt: number;
  /** Index into the hello's devices: the one whose next piece waits for room. */
  readonly device: number;
  /** As in `switchover`. */
  readonly deviceSequences: readonly number[];
}

export interface MissingFrame extends NamedPages {
  readonly type: 'missing';
  readonly block: number;
}

/** Destination, on the urgent stream: the guest waits for these pages. */
export interface RequestPagesFrame {
  readonly type: 'requestPages';
  readonly block: number;
  readonly page: number;
  /** From 1 to `MOST_REQUESTED`. */
  readonly pages: number;
}

/** Most pages that one `requestPages` asks for. */
export const MOST_REQUESTED = 64;

/** Destination: no page is missing any more. */
export interface WholeFrame {
  readonly type: 'whole';
}

export interface ProbeFrame {
  readonly type: 'probe';
}

/** Digests of pages, 8 bytes each, which are the payload. */
export interface DigestsFrame {
  readonly type: 'digests';
  readonly block: number;
  readonly runs: readonly number[];
}

/** Source: there are no more digests; pages without one are zero. */
export interface DigestsEndFrame {
  readonly type: 'digestsEnd';
}

/** Destination: what the comparison of all RAM has found. */
export interface VerifiedFrame {
  readonly type: 'verified';
  readonly pagesCompared: number;
  readonly pagesDifferent: number;
  /** The first differing pages, flat [block, page, ...]; at most 16 pairs. */
  readonly differences: readonly number[];
}

/** Asks for a `pong` with the same id. */
export interface PingFrame {
  readonly type: 'ping';
  readonly id: number;
}

/** The answer to a `ping`. */
export interface PongFrame {
  readonly type: 'pong';
  readonly id: number;
}

/**
 * The states of a destination to which a source reconnects. `incomplete`: the guest runs there, and pages are missing, which the `missing`
 * frames before this one name.
 */
export const RESUMED_STATES = ['receiving', 'loading', 'ready', 'running', 'incomplete'] as const;

/** Destination: its state, for a source that has reconnected. */
export interface ResumedFrame {
  readonly type: 'resumed';
  readonly state: (typeof RESUMED_STATES)[number];
  /** The round that is being received: all rounds before it are wholly in guest memory. */
  readonly round: number;
  /** For each of the hello's devices, the sequence of the piece that is expected next. */
  readonly deviceSequences: readonly number[];
  /** Per device: how often it has been reset, as in `backAck`. */
  readonly deviceResets: readonly number[];
  readonly incarnation: string;
  /** With `running` and `incomplete`: as in the `running` frame; else 0. */
  readonly resumeMs: number;
  readonly sinceReadyMs: number;
}

export interface ReceivedPagesFrame extends NamedPages {
  readonly type: 'received';
  readonly block: number;
}

/** Source: it has released its copy of the guest. */
export interface ReleasedFrame {
  readonly type: 'released';
}

/** A message of the protocol: docs/wire-format.md has all of them. */
export type Frame =
  | HelloFrame
  | WelcomeFrame
  | ErrorFrame
  | AttachFrame
  | PagesFrame
  | ZeroPagesFrame
  | RoundEndFrame
  | RoundAckFrame
  | DeviceFrame
  | SwitchoverFrame
  | ReadyFrame
  | GoFrame
  | RunningFrame
  | DigestsFrame
  | DigestsEndFrame
  | VerifiedFrame
  | PingFrame
  | PongFrame
  | ResumedFrame
  | ReceivedPagesFrame
  | ReleasedFrame
  | DeltaPagesFrame
  | CompressedPagesFrame
  | PrepareFrame
  | PreparedFrame
  | BackFrame
  | BackAckFrame
  | OwedFrame
  | LoadedFrame
  | ProbeFrame
  | AwaitPiecesFrame
  | ArrivedFrame
  | LoadEarlyFrame
  | MissingFrame
  | RequestPagesFrame
  | WholeFrame;
