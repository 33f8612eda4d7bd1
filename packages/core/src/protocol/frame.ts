/**
 * The messages of a migration, as the engine sees them. How they become bytes is the framing's business
 * (`@godwit/transport`, `docs/wire-format.md`); what they mean and when they are allowed is decided here.
 *
 * Numbers are frozen: a type is never renumbered, and a new one takes a new number.
 */
export const FRAME_TYPES = {
  /** Source, first frame: who I am, what I bring, what I can do. */
  hello: 1,
  /** Destination's answer: what we will use. */
  welcome: 2,
  /** Either side: I failed, and why. The last frame of that side. */
  error: 3,
  /** Joins a further stream to a migration as page channel `index`; first frame of that stream. */
  attach: 4,
  /** Page contents: `payload` holds the pages of `runs`, in order. */
  pages: 5,
  /** Pages that are zero; no payload. */
  zeroPages: 6,
  /** Source, on every page channel: nothing more of this round comes on this channel. */
  roundEnd: 7,
  /** Destination, control: all channels reached the round's end and every page is in guest memory. */
  roundAck: 8,
  /** A piece of a device's state in `payload`. */
  device: 9,
  /** Source: all is sent; load everything and answer `ready`. */
  switchover: 10,
  /** Destination: everything is loaded, I could run the guest. I do not, yet. */
  ready: 11,
  /** Source: the guest is yours. The point of no return. */
  go: 12,
  /** Destination: the guest runs here. */
  running: 13,
  /** Source: the digests of these pages are in `payload`; compare. Only between `ready` and `go`. */
  digests: 14,
  /** Source: that was all; every page not mentioned must be zero. */
  digestsEnd: 15,
  /** Destination: what the comparison found. */
  verified: 16,
  /** Either side, any time after the handshake; answered by `pong` with the same `id`. */
  ping: 17,
  pong: 18,
  /** Destination, in the place of `welcome`, over a further connection of a migration that it knows: how far I am. */
  resumed: 19,
  /** Destination, before `resumed`: these pages of the unfinished round are in guest memory. */
  received: 20,
  /** Source, after `running` or `resumed`: I have let go of my copy of the guest. */
  released: 21,
  /** Pages as what has changed since they were sent last; only if `encoding:delta` was agreed on. */
  deltaPages: 24,
  /** Pages compressed in one piece; only if `encoding:` and the name of the compression was agreed on. */
  compressedPages: 25,
  /** Source: say `prepared` once the VM stands and its devices have loaded every piece up to these. The last one counts. */
  prepare: 26,
  /** Destination: loading what is still to come will be quick. */
  prepared: 27,
  /** Source: this stop-and-copy is given up, and the guest runs here again. Go back to receiving. */
  back: 28,
  /** Destination: I am receiving again; what the attempt has sent is void. */
  backAck: 29,
  /** Destination, before `prepared`: loading has written these pages of guest memory, so they are owed again. */
  owed: 30,
  /** Destination: these pieces of device state have been taken by `load`, so that further ones may come. */
  loaded: 31,
} as const;

export type FrameName = keyof typeof FRAME_TYPES;

export interface BlockDescription {
  readonly id: string;
  readonly guestPhysicalAddress: number;
  readonly byteLength: number;
  /** What memory it is (`RamBlock.identity`), or empty: a destination refuses to receive a guest into its own memory. */
  readonly identity: string;
}

export interface DeviceDescription {
  readonly id: string;
  readonly version: number;
  /** Bytes that `save` is expected to yield, as the device tells; 0 where it cannot. */
  readonly stateBytes: number;
}

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
  /** Optional abilities that the source offers. */
  readonly features: readonly string[];
  /** Page channels beside the control stream; 0 means that pages travel on the control stream. */
  readonly pageChannels: number;
  /** The embedder's own description of the VM: anything MessagePack can carry. */
  readonly description: unknown;
  /** 1, 2, 3, ...: which of this migration's connections this is. A higher one takes the place of those before it. */
  readonly connection: number;
  /** Where the source's ownership stands: only a migration that is `running` may begin with this hello. */
  readonly stage: HelloStage;
  /** From 1: the stop-and-copy that the source is in (`paused`), or makes next (`running`). */
  readonly attempt: number;
}

/**
 * What a source can be when it connects: in pre-copy, in stop-and-copy with everything sent, past `go`, or over before it;
 * `dryRun` asks whether the migration could be made, and ends with the answer.
 */
export const HELLO_STAGES = ['running', 'paused', 'handedOver', 'kept', 'dryRun'] as const;

export type HelloStage = (typeof HELLO_STAGES)[number];

export interface WelcomeFrame {
  readonly type: 'welcome';
  readonly version: number;
  /** Those of the hello's features that both sides will use. */
  readonly features: readonly string[];
  readonly software: string;
  /** Most bytes of payload that this destination takes in one frame. */
  readonly maximumPayload: number;
  /** 32 hex digits: this VM of this process. A destination that was restarted has another one. */
  readonly incarnation: string;
  /** Most bytes of device state, of all devices together, that this destination holds before they are loaded. */
  readonly maximumDeviceState: number;
}

export interface ErrorFrame {
  readonly type: 'error';
  readonly code: string;
  readonly message: string;
  /** Whether another attempt may go better (`GodwitError.retry`). */
  readonly retry: boolean;
}

export interface AttachFrame {
  readonly type: 'attach';
  readonly migrationId: string;
  readonly index: number;
  /** That of the hello to which this channel belongs. */
  readonly connection: number;
}

export interface PagesFrame {
  readonly type: 'pages';
  readonly round: number;
  readonly block: number;
  /** Flat [first page, page count, ...]; the payload is the pages of all runs, one after the other. */
  readonly runs: readonly number[];
}

export interface ZeroPagesFrame {
  readonly type: 'zeroPages';
  readonly round: number;
  readonly block: number;
  readonly runs: readonly number[];
}

export interface DeltaPagesFrame {
  readonly type: 'deltaPages';
  readonly round: number;
  readonly block: number;
  readonly runs: readonly number[];
}

export interface CompressedPagesFrame {
  readonly type: 'compressedPages';
  readonly round: number;
  readonly block: number;
  readonly runs: readonly number[];
  /** Name of the compression, as in the features: `zstd` for `encoding:zstd`. */
  readonly encoding: string;
}

/** Frames that carry pages, of whatever kind. */
export type AnyPagesFrame = PagesFrame | ZeroPagesFrame | DeltaPagesFrame | CompressedPagesFrame;

export interface RoundEndFrame {
  readonly type: 'roundEnd';
  readonly round: number;
  /** Pages (of any kind) that this channel carried in this round: a lost frame is noticed here. */
  readonly pages: number;
}

export interface RoundAckFrame {
  readonly type: 'roundAck';
  readonly round: number;
  readonly pages: number;
}

export interface DeviceFrame {
  readonly type: 'device';
  /** Index into the hello's devices. */
  readonly device: number;
  /** 0, 1, 2, ... per device: since its last reset while the guest runs, within the attempt while it is paused. */
  readonly sequence: number;
  readonly last: boolean;
  /** The stop-and-copy that this piece belongs to; 0 for what is sent while the guest runs. */
  readonly attempt: number;
}

export interface SwitchoverFrame {
  readonly type: 'switchover';
  readonly round: number;
  readonly attempt: number;
  /** What the guest was doing before it was paused for this: it is to do the same at the destination. */
  readonly runState: MovedRunState;
}

/** A guest that has ended does not move. */
export const MOVED_RUN_STATES = ['running', 'paused'] as const;

export type MovedRunState = (typeof MOVED_RUN_STATES)[number];

export interface ReadyFrame {
  readonly type: 'ready';
  readonly attempt: number;
  /** How long loading device state took after the `switchover` frame, in milliseconds of the destination's clock. */
  readonly loadMs: number;
}

export interface GoFrame {
  readonly type: 'go';
  readonly attempt: number;
}

export interface RunningFrame {
  readonly type: 'running';
  /** How long resuming the guest took at the destination, in milliseconds. */
  readonly resumeMs: number;
  /** From `ready` to the running guest, in milliseconds of the destination's clock. */
  readonly sinceReadyMs: number;
}

export interface PrepareFrame {
  readonly type: 'prepare';
  readonly attempt: number;
  /** For each of the hello's devices, the sequence of the piece that will be sent next. */
  readonly deviceSequences: readonly number[];
}

export interface PreparedFrame {
  readonly type: 'prepared';
  readonly incarnation: string;
  readonly attempt: number;
  /** Those of the question. */
  readonly deviceSequences: readonly number[];
}

export interface BackFrame {
  readonly type: 'back';
  readonly attempt: number;
}

export interface BackAckFrame {
  readonly type: 'backAck';
  readonly attempt: number;
  /** For each device, how often it has been reset here: one whose number has grown begins anew, with piece 0. */
  readonly deviceResets: readonly number[];
}

export interface OwedFrame {
  readonly type: 'owed';
  readonly block: number;
  readonly runs: readonly number[];
}

export interface LoadedFrame {
  readonly type: 'loaded';
  readonly device: number;
  /** Every piece before this one has been taken. */
  readonly sequence: number;
}

export interface DigestsFrame {
  readonly type: 'digests';
  readonly block: number;
  readonly runs: readonly number[];
}

export interface DigestsEndFrame {
  readonly type: 'digestsEnd';
}

export interface VerifiedFrame {
  readonly type: 'verified';
  readonly pagesCompared: number;
  readonly pagesDifferent: number;
  /** The first differing pages, flat [block, page, ...]; at most 16 pairs. */
  readonly differences: readonly number[];
}

export interface PingFrame {
  readonly type: 'ping';
  readonly id: number;
}

export interface PongFrame {
  readonly type: 'pong';
  readonly id: number;
}

/** What a destination can be when it is found again. */
export const RESUMED_STATES = ['receiving', 'loading', 'ready', 'running'] as const;

export interface ResumedFrame {
  readonly type: 'resumed';
  readonly state: (typeof RESUMED_STATES)[number];
  /** The round that is being received: all before it are wholly in guest memory. */
  readonly round: number;
  /** For each of the hello's devices, the sequence of the piece that is expected next. */
  readonly deviceSequences: readonly number[];
  /** For each device, how often it has been reset: see `backAck`. */
  readonly deviceResets: readonly number[];
  readonly incarnation: string;
  /** With `running`: as in the `running` frame; else 0. */
  readonly resumeMs: number;
  readonly sinceReadyMs: number;
}

export interface ReceivedPagesFrame {
  readonly type: 'received';
  readonly block: number;
  readonly runs: readonly number[];
}

export interface ReleasedFrame {
  readonly type: 'released';
}

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
  | LoadedFrame;

/** Frames that are followed by a payload. All others never are. */
export const FRAMES_WITH_PAYLOAD: ReadonlySet<FrameName> = new Set<FrameName>([
  'pages',
  'device',
  'digests',
  'deltaPages',
  'compressedPages',
]);
