import {
  type BlockDescription,
  FRAME_TYPES,
  FRAMES_WITH_PAYLOAD,
  type Frame,
  type FrameName,
  GodwitError,
  HELLO_STAGES,
  type MissingFrame,
  MOST_WORDS,
  MOVED_RUN_STATES,
  type OwedFrame,
  RESUMED_STATES,
  type ReceivedPagesFrame,
} from '@godwit/core/pages';
import { FieldReader } from './field-reader.js';
import type { FrameLimits } from './frame-limits.js';
import type { HeaderKind } from './frame-reader.js';
import { packHeaderFields, unpackHeaderFields } from './header-fields.js';
import { integer, integers, portable } from './portable-value.js';

/** How the fields of one frame type are laid out in its header, after the type number. */
interface FieldLayout<F extends Frame> {
  pack(frame: F): unknown[];
  parse(fields: FieldReader, limits: FrameLimits): F;
}

const LONGEST_NAME = 255;
const LONGEST_FEATURE = 64;
export const LONGEST_ERROR_MESSAGE = 4096;
const MOST_FEATURES = 64;
const MOST_BLOCKS = 4096;
const MOST_DEVICES = 4096;
const MOST_PAGE_CHANNELS = 1024;
const MOST_DIFFERENCES = 16;
/** Flags of a block in a hello. */
const SHARED = 1;
const READ_ONLY = 2;

/** Stands for the incarnation that a destination of version 1 does not send; its version is refused. */
const NO_INCARNATION = '0'.repeat(32);

/** Packs pages as runs, or as a bitmap, which has two more fields and no runs. */
function packNamed({ block, runs, firstPage, words }: ReceivedPagesFrame | OwedFrame | MissingFrame): unknown[] {
  return [block, integers(runs), ...(words === undefined ? [] : [integer(firstPage ?? 0), words])];
}

function parseNamed(fields: FieldReader, limits: FrameLimits): Omit<ReceivedPagesFrame, 'type'> {
  const named = { block: fields.uint('block'), runs: fields.pairs('runs', limits.maximumRuns) };
  if (fields.ended) return named;
  return { ...named, firstPage: fields.uint('firstPage'), words: fields.uints('words', MOST_WORDS, 0xffff_ffff) };
}

/** The order of the fields is the wire format: append, never change. `docs/wire-format.md` says the same in words. */
const LAYOUTS: { readonly [N in FrameName]: FieldLayout<Extract<Frame, { type: N }>> } = {
  hello: {
    pack: (f) => [
      f.minimumVersion,
      f.maximumVersion,
      f.migrationId,
      f.software,
      integer(f.pageSize),
      f.blocks.map((block) => [
        block.id,
        integer(block.guestPhysicalAddress),
        integer(block.byteLength),
        identity(block),
        ...flags(block),
      ]),
      f.devices.map((device) => [device.id, integer(device.version), integer(device.stateBytes)]),
      f.features,
      f.pageChannels,
      portable(f.description),
      integer(f.connection),
      f.stage,
      integer(f.attempt),
    ],
    parse: (fields) => ({
      type: 'hello',
      minimumVersion: fields.uint('minimumVersion'),
      maximumVersion: fields.uint('maximumVersion'),
      migrationId: fields.migrationId('migrationId'),
      software: fields.string('software', LONGEST_NAME),
      pageSize: fields.uint('pageSize'),
      blocks: fields.list('blocks', MOST_BLOCKS, (block) => ({
        id: block.string('id', LONGEST_NAME),
        guestPhysicalAddress: block.uint('guestPhysicalAddress'),
        byteLength: block.uint('byteLength'),
        identity: block.ended ? '' : block.string('identity', LONGEST_NAME),
        ...flagsIn(block.ended ? 0 : block.uint('flags')),
      })),
      devices: fields.list('devices', MOST_DEVICES, (device) => ({
        id: device.string('id', LONGEST_NAME),
        version: device.uint('version'),
        stateBytes: device.ended ? 0 : device.uint('stateBytes'),
      })),
      features: fields.list('features', MOST_FEATURES, (feature) => feature.string('name', LONGEST_FEATURE)),
      pageChannels: fields.uint('pageChannels', MOST_PAGE_CHANNELS),
      description: fields.any(),
      connection: fields.uint('connection'),
      stage: fields.oneOf('stage', HELLO_STAGES),
      // A peer that speaks only version 1 is to be refused for its version, and not for a field that it does not have.
      attempt: fields.ended ? 1 : fields.uint('attempt'),
    }),
  },
  welcome: {
    pack: (f) => [
      f.version,
      f.features,
      f.software,
      integer(f.maximumPayload),
      f.incarnation,
      integer(f.maximumDeviceState),
    ],
    parse: (fields) => ({
      type: 'welcome',
      version: fields.uint('version'),
      features: fields.list('features', MOST_FEATURES, (feature) => feature.string('name', LONGEST_FEATURE)),
      software: fields.string('software', LONGEST_NAME),
      maximumPayload: fields.uint('maximumPayload'),
      incarnation: fields.ended ? NO_INCARNATION : fields.migrationId('incarnation'),
      maximumDeviceState: fields.ended ? 0 : fields.uint('maximumDeviceState'),
    }),
  },
  error: {
    pack: (f) => [f.code.slice(0, LONGEST_FEATURE), truncated(f.message, LONGEST_ERROR_MESSAGE), f.retry],
    parse: (fields) => ({
      type: 'error',
      code: fields.string('code', LONGEST_FEATURE),
      message: fields.string('message', LONGEST_ERROR_MESSAGE),
      retry: fields.ended ? false : fields.boolean('retry'),
    }),
  },
  attach: {
    pack: (f) => [f.migrationId, f.index, integer(f.connection)],
    parse: (fields) => ({
      type: 'attach',
      migrationId: fields.migrationId('migrationId'),
      index: fields.uint('index', MOST_PAGE_CHANNELS - 1),
      connection: fields.uint('connection'),
    }),
  },
  pages: {
    pack: (f) => [integer(f.round), f.block, integers(f.runs)],
    parse: (fields, limits) => ({
      type: 'pages',
      round: fields.uint('round'),
      block: fields.uint('block'),
      runs: fields.pairs('runs', limits.maximumRuns),
    }),
  },
  zeroPages: {
    pack: (f) => [integer(f.round), f.block, integers(f.runs)],
    parse: (fields, limits) => ({
      type: 'zeroPages',
      round: fields.uint('round'),
      block: fields.uint('block'),
      runs: fields.pairs('runs', limits.maximumRuns),
    }),
  },
  roundEnd: {
    pack: (f) => [integer(f.round), integer(f.pages)],
    parse: (fields) => ({ type: 'roundEnd', round: fields.uint('round'), pages: fields.uint('pages') }),
  },
  roundAck: {
    pack: (f) => [integer(f.round), integer(f.pages)],
    parse: (fields) => ({ type: 'roundAck', round: fields.uint('round'), pages: fields.uint('pages') }),
  },
  device: {
    pack: (f) => [
      f.device,
      integer(f.sequence),
      f.last,
      integer(f.attempt),
      ...(f.resets === undefined ? [] : [integer(f.resets)]),
    ],
    parse: (fields) => ({
      type: 'device',
      device: fields.uint('device'),
      sequence: fields.uint('sequence'),
      last: fields.boolean('last'),
      attempt: fields.uint('attempt'),
      ...(fields.ended ? {} : { resets: fields.uint('resets') }),
    }),
  },
  switchover: {
    pack: (f) => [
      integer(f.round),
      integer(f.attempt),
      f.runState,
      ...(f.deviceSequences === undefined ? [] : [integers(f.deviceSequences)]),
    ],
    parse: (fields) => ({
      type: 'switchover',
      round: fields.uint('round'),
      attempt: fields.uint('attempt'),
      runState: fields.oneOf('runState', MOVED_RUN_STATES),
      ...(fields.ended
        ? {}
        : { deviceSequences: fields.list('deviceSequences', MOST_DEVICES, (device) => device.uint('sequence')) }),
    }),
  },
  ready: {
    pack: (f) => [f.loadMs, integer(f.attempt)],
    parse: (fields) => ({ type: 'ready', loadMs: fields.duration('loadMs'), attempt: fields.uint('attempt') }),
  },
  go: {
    pack: (f) => [integer(f.attempt)],
    parse: (fields) => ({ type: 'go', attempt: fields.uint('attempt') }),
  },
  running: {
    pack: (f) => [f.resumeMs, f.sinceReadyMs],
    parse: (fields) => ({
      type: 'running',
      resumeMs: fields.duration('resumeMs'),
      sinceReadyMs: fields.duration('sinceReadyMs'),
    }),
  },
  digests: {
    pack: (f) => [f.block, integers(f.runs)],
    parse: (fields, limits) => ({
      type: 'digests',
      block: fields.uint('block'),
      runs: fields.pairs('runs', limits.maximumRuns),
    }),
  },
  digestsEnd: { pack: () => [], parse: () => ({ type: 'digestsEnd' }) },
  verified: {
    pack: (f) => [integer(f.pagesCompared), integer(f.pagesDifferent), integers(f.differences)],
    parse: (fields) => ({
      type: 'verified',
      pagesCompared: fields.uint('pagesCompared'),
      pagesDifferent: fields.uint('pagesDifferent'),
      differences: fields.pairs('differences', MOST_DIFFERENCES),
    }),
  },
  ping: { pack: (f) => [integer(f.id)], parse: (fields) => ({ type: 'ping', id: fields.uint('id') }) },
  pong: { pack: (f) => [integer(f.id)], parse: (fields) => ({ type: 'pong', id: fields.uint('id') }) },
  resumed: {
    pack: (f) => [
      f.state,
      integer(f.round),
      integers(f.deviceSequences),
      integers(f.deviceResets),
      f.incarnation,
      f.resumeMs,
      f.sinceReadyMs,
    ],
    parse: (fields) => ({
      type: 'resumed',
      state: fields.oneOf('state', RESUMED_STATES),
      round: fields.uint('round'),
      deviceSequences: fields.list('deviceSequences', MOST_DEVICES, (device) => device.uint('sequence')),
      deviceResets: fields.list('deviceResets', MOST_DEVICES, (device) => device.uint('resets')),
      incarnation: fields.migrationId('incarnation'),
      resumeMs: fields.duration('resumeMs'),
      sinceReadyMs: fields.duration('sinceReadyMs'),
    }),
  },
  received: {
    pack: packNamed,
    parse: (fields, limits) => ({ type: 'received', ...parseNamed(fields, limits) }),
  },
  released: { pack: () => [], parse: () => ({ type: 'released' }) },
  deltaPages: {
    pack: (f) => [integer(f.round), f.block, integers(f.runs)],
    parse: (fields, limits) => ({
      type: 'deltaPages',
      round: fields.uint('round'),
      block: fields.uint('block'),
      runs: fields.pairs('runs', limits.maximumRuns),
    }),
  },
  compressedPages: {
    pack: (f) => [integer(f.round), f.block, integers(f.runs), f.encoding],
    parse: (fields, limits) => ({
      type: 'compressedPages',
      round: fields.uint('round'),
      block: fields.uint('block'),
      runs: fields.pairs('runs', limits.maximumRuns),
      encoding: fields.string('encoding', LONGEST_FEATURE),
    }),
  },
  prepare: {
    pack: (f) => [integer(f.attempt), integers(f.deviceSequences)],
    parse: (fields) => ({
      type: 'prepare',
      attempt: fields.uint('attempt'),
      deviceSequences: fields.list('deviceSequences', MOST_DEVICES, (device) => device.uint('sequence')),
    }),
  },
  prepared: {
    pack: (f) => [
      f.incarnation,
      integer(f.attempt),
      integers(f.deviceSequences),
      ...(f.load === undefined ? [] : [[...f.load], [...(f.resume ?? [])]]),
    ],
    parse: (fields) => {
      const incarnation = fields.migrationId('incarnation');
      const attempt = fields.uint('attempt');
      const deviceSequences = fields.list('deviceSequences', MOST_DEVICES, (device) => device.uint('sequence'));
      if (fields.ended) return { type: 'prepared', incarnation, attempt, deviceSequences };
      const load = fields.durations('load', 6);
      const resume = fields.durations('resume', 3);
      return { type: 'prepared', incarnation, attempt, deviceSequences, load, resume };
    },
  },
  back: {
    pack: (f) => [integer(f.attempt)],
    parse: (fields) => ({ type: 'back', attempt: fields.uint('attempt') }),
  },
  backAck: {
    pack: (f) => [integer(f.attempt), integers(f.deviceResets)],
    parse: (fields) => ({
      type: 'backAck',
      attempt: fields.uint('attempt'),
      deviceResets: fields.list('deviceResets', MOST_DEVICES, (device) => device.uint('resets')),
    }),
  },
  owed: {
    pack: packNamed,
    parse: (fields, limits) => ({ type: 'owed', ...parseNamed(fields, limits) }),
  },
  loaded: {
    pack: (f) => [f.device, integer(f.sequence), ...(f.attempt === undefined ? [] : [integer(f.attempt)])],
    parse: (fields) => ({
      type: 'loaded',
      device: fields.uint('device'),
      sequence: fields.uint('sequence'),
      ...(fields.ended ? {} : { attempt: fields.uint('attempt') }),
    }),
  },
  probe: {
    pack: () => [],
    parse: () => ({ type: 'probe' }),
  },
  awaitPieces: {
    pack: (f) => [integer(f.id), integer(f.attempt), integers(f.deviceSequences)],
    parse: (fields) => ({
      type: 'awaitPieces',
      id: fields.uint('id'),
      attempt: fields.uint('attempt'),
      deviceSequences: fields.list('deviceSequences', MOST_DEVICES, (device) => device.uint('sequence')),
    }),
  },
  arrived: { pack: (f) => [integer(f.id)], parse: (fields) => ({ type: 'arrived', id: fields.uint('id') }) },
  loadEarly: {
    pack: (f) => [integer(f.attempt), f.device, integers(f.deviceSequences)],
    parse: (fields) => ({
      type: 'loadEarly',
      attempt: fields.uint('attempt'),
      device: fields.uint('device'),
      deviceSequences: fields.list('deviceSequences', MOST_DEVICES, (device) => device.uint('sequence')),
    }),
  },
  missing: {
    pack: packNamed,
    parse: (fields, limits) => ({ type: 'missing', ...parseNamed(fields, limits) }),
  },
  requestPages: {
    pack: (f) => [f.block, integer(f.page), integer(f.pages)],
    parse: (fields) => ({
      type: 'requestPages',
      block: fields.uint('block'),
      page: fields.uint('page'),
      pages: fields.uint('pages'),
    }),
  },
  whole: { pack: () => [], parse: () => ({ type: 'whole' }) },
};

const NAMES: ReadonlyMap<unknown, FrameName> = new Map(
  Object.entries(FRAME_TYPES).map(([name, type]) => [type, name as FrameName]),
);

export function hasPayload(frame: Frame): boolean {
  return FRAMES_WITH_PAYLOAD.has(frame.type);
}

/** The header of a frame: a MessagePack array of the type number and the fields. */
export function packHeader(frame: Frame): Uint8Array {
  const layout = LAYOUTS[frame.type] as FieldLayout<Frame> | undefined;
  if (layout === undefined)
    throw new GodwitError('GODWIT_INVALID_ARGUMENT', `there is no frame type "${String(frame.type)}"`);
  return packHeaderFields([FRAME_TYPES[frame.type], ...layout.pack(frame)]);
}

/**
 * Reads a header. Throws `GODWIT_BAD_STREAM` when it is malformed or of an unknown type, and `GODWIT_LIMIT_EXCEEDED`
 * for lists that are too long. The engine checks the meaning of the values.
 */
export function parseHeader(bytes: Uint8Array, limits: FrameLimits): Frame {
  return parseFields(unpackHeaderFields(bytes), limits);
}

/** Does the same for a header that was already unpacked. */
export function parseFields(header: readonly unknown[], limits: FrameLimits): Frame {
  const name = NAMES.get(header[0]);
  if (name === undefined) {
    const known = Math.max(...Object.values(FRAME_TYPES));
    throw new GodwitError(
      'GODWIT_BAD_STREAM',
      `unknown frame type ${String(header[0]).slice(0, 40)}; this end knows 1 to ${known}. Is the peer a newer version?`,
    );
  }
  return LAYOUTS[name].parse(new FieldReader(name, header, 1), limits);
}

/** The frames of a migration, for a `FrameReader`. */
export const FRAME_HEADERS: HeaderKind<Frame> = { parse: parseHeader, hasPayload };

/**
 * The identity of a block, which is never shortened: two different memories could then seem to be the same, or one
 * memory to be two.
 */
function identity(block: BlockDescription): string {
  if (block.identity.length <= LONGEST_NAME) return block.identity;
  throw new GodwitError(
    'GODWIT_INVALID_ARGUMENT',
    `the identity of RAM block "${block.id}" has ${block.identity.length} characters; there may be ${LONGEST_NAME}: give a digest of it`,
  );
}

/** The flags of a block, or no field when it has none. */
function flags({ shared, readOnly }: BlockDescription): readonly number[] {
  const bits = (shared ? SHARED : 0) | (readOnly ? READ_ONLY : 0);
  return bits === 0 ? [] : [bits];
}

function flagsIn(bits: number): Pick<BlockDescription, 'shared' | 'readOnly'> {
  if (bits > (SHARED | READ_ONLY)) {
    throw new GodwitError('GODWIT_BAD_STREAM', `hello frame: a block has flags that are not known (${bits})`);
  }
  return { ...(bits & SHARED ? { shared: true } : {}), ...(bits & READ_ONLY ? { readOnly: true } : {}) };
}

function truncated(text: string, longest: number): string {
  return text.length <= longest ? text : `${text.slice(0, longest - 3)}...`;
}
