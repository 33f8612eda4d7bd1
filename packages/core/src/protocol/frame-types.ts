/**
 * The messages of a migration, as the engine sees them. `@godwit/transport` turns them into bytes (`docs/wire-format.md`);
 * `protocol-table.ts` says when each is legal.
 *
 * The numbers are frozen: a type is never renumbered, and a new type takes a new number.
 */
export const FRAME_TYPES = {
  /** Source, first frame: the migration, its VM, and the features that are offered. */
  hello: 1,
  /** Destination: the answer to `hello`, with the version and features to use. */
  welcome: 2,
  /** Either side: why it ends the connection. The last frame of that side. */
  error: 3,
  /** Joins a further stream to a migration as page channel `index`; first frame of that stream. */
  attach: 4,
  /** Page contents: `payload` holds the pages of `runs`, in order. In round 0 on the urgent channel: the answer to `requestPages`. */
  pages: 5,
  /** Pages that are zero; no payload. */
  zeroPages: 6,
  /** Source, on every page channel: no more pages of this round come on this channel. */
  roundEnd: 7,
  /** Destination, control: all channels reached the round's end and every page is in guest memory. */
  roundAck: 8,
  /** A piece of a device's state in `payload`. */
  device: 9,
  /** Source: all is sent; load everything and answer `ready`. */
  switchover: 10,
  /** Destination: everything is loaded; it waits for `go` to run the guest. */
  ready: 11,
  /** Source: the guest is the destination's, which may run it. After it the source never resumes by itself. */
  go: 12,
  /** Destination: it runs the guest. */
  running: 13,
  /** Source: the digests of these pages are in `payload`; compare. Only between `ready` and `go`. */
  digests: 14,
  /** Source: the end of the digests; every page that was not in any must be zero. */
  digestsEnd: 15,
  /** Destination: the result of the comparison. */
  verified: 16,
  /** Either side, at any time after the handshake: answered by `pong` with the same `id`. */
  ping: 17,
  pong: 18,
  /** Destination, instead of `welcome`, over a further connection of a migration that it knows: how far it has come. */
  resumed: 19,
  /** Destination, before `resumed`: these pages of the unfinished round are in guest memory. */
  received: 20,
  /** Source, after `running` or `resumed`: it has released its copy of the guest. */
  released: 21,
  /** Pages as the bytes that have changed since they were last sent; only if `encoding:delta` was agreed on. */
  deltaPages: 24,
  /** Pages compressed in one piece; only if `encoding:` and the name of the compression was agreed on. */
  compressedPages: 25,
  /**
   * Source: answer `prepared` once the VM is built and its devices have loaded every piece before these. Only the last `prepare` counts.
   */
  prepare: 26,
  /** Destination: the answer to `prepare`; loading the rest will be quick. */
  prepared: 27,
  /** Source: this stop-and-copy is given up, and the guest runs at the source; the destination goes back to receiving. */
  back: 28,
  /** Destination: it is receiving again; everything that the attempt has sent is void. */
  backAck: 29,
  /** Destination, before `prepared`: loading has written these pages of guest memory, so that they must be sent again. */
  owed: 30,
  /** Destination: the device's `load` has taken these pieces of state, so that more may be sent. */
  loaded: 31,
  /** Source: bytes that measure the link; the destination throws them away. Only if `probe` was agreed on. */
  probe: 32,
  /** Source: answer `arrived` once every piece before these has come. Only if `deviceChannels` was agreed on. */
  awaitPieces: 33,
  /** Destination: the answer to `awaitPieces` with the same `id`. */
  arrived: 34,
  /**
   * Source: the state of this stop-and-copy is more than the destination holds; load it as it comes, before `switchover`. Only if
   * `loadEarly` was agreed on.
   */
  loadEarly: 35,
  /**
   * These pages are missing at the destination. Source, before `switchover`: the guest is to run there before these pages come.
   * Destination, before `resumed`: these pages have not come yet. Only if `postcopy` was agreed on.
   */
  missing: 36,
  /** Destination, on the urgent channel: a thread waits for these pages. Answered by `pages` on the same channel. */
  requestPages: 37,
  /** Destination, with the guest running there: no page is missing any more. */
  whole: 38,
} as const;

/** The name of a frame type; its number is in `FRAME_TYPES`. */
export type FrameName = keyof typeof FRAME_TYPES;

/** The types of frames with a payload. All others have none. */
export const FRAMES_WITH_PAYLOAD: ReadonlySet<FrameName> = new Set<FrameName>([
  'pages',
  'device',
  'digests',
  'deltaPages',
  'compressedPages',
  'probe',
]);
