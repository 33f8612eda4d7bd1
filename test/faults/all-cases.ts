import type { ByteCount } from './counting.js';
import { caseName, type FaultCase, type FaultKind } from './fault-case.js';
import { type DeathCase, deathName } from './run-death.js';

/** Pre-copy rounds of a case: few for faults in what the source sends, many for faults in the destination's short answers. */
export const FEW_ROUNDS = 3;
export const MANY_ROUNDS = 26;

/** A series of cases of one kind, which are counted together. */
export interface CaseSeries {
  readonly name: string;
  /** The name of case number `n`, from 0, as `--only` takes it; `undefined` after the last one. */
  readonly at: (n: number) => string | undefined;
  /** Whether the series ends where runs end before their fault strikes. */
  readonly untilNotStruck: boolean;
}

/** Bytes of the control stream of a migration without a fault. */
export interface UncutBytes {
  /** To the destination, with `FEW_ROUNDS` rounds. */
  readonly out: number;
  /** To the source, with `MANY_ROUNDS` rounds. */
  readonly in: number;
  /** To the destination and to the source, of a migration that goes back twice. */
  readonly backOut: number;
  readonly backIn: number;
  /** Of a migration by post-copy. */
  readonly postcopy: {
    /** Of the control stream, when the missing pages began to follow. */
    readonly from: ByteCount;
    readonly control: ByteCount;
    readonly urgent: ByteCount;
  };
}

/** Sizes of the series that can have any number of cases. */
export interface PlanSize {
  /** Byte offsets to cut at, in each direction. */
  readonly offsets: number;
  readonly bytes: UncutBytes;
  /** Of the frames of migrations every so many is taken, and of those by post-copy; default 1. */
  readonly step?: { readonly precopy: number; readonly postcopy: number };
  readonly random: () => number;
}

/** CI's sample takes every so many of the frames; the commit says from which on. */
export const SAMPLED_STEP = { precopy: 4, postcopy: 8 } as const;

/** Number of byte offsets in each direction in CI's sample. */
export const SAMPLED_OFFSETS = 24;

/** How often a migration goes back, in the cases with `backs`. */
const BACKS = 2;

/** Rounds before post-copy. */
const POSTCOPY_ROUNDS = 2;

const ON_CONTROL = { stream: 0, pageChannels: 0, checksum: false, rounds: FEW_ROUNDS } as const;

/** The place of a fault that never strikes, for an uncut migration. */
const NOWHERE = { ...ON_CONTROL, kind: 'cut', at: { frame: 1_000_000 } } as const;
export const UNCUT = {
  out: caseName({ ...NOWHERE, direction: 'out' }),
  in: caseName({ ...NOWHERE, direction: 'in', rounds: MANY_ROUNDS }),
  back: caseName({ ...NOWHERE, direction: 'out', backs: BACKS }),
  postcopy: caseName({ ...NOWHERE, direction: 'out', rounds: POSTCOPY_ROUNDS, postcopy: true }),
} as const;

/** Cases that consist of many migrations and print a summary of their own. */
export const WHOLE_NAMES = ['cut-ten-times', 'failed-migrations'] as const;
export type WholeName = (typeof WHOLE_NAMES)[number];

/** Every series of cases, in the order in which they are printed. */
export function allSeries({ offsets, bytes, random, step = { precopy: 1, postcopy: 1 } }: PlanSize): CaseSeries[] {
  const precopy = every(step.precopy, random);
  const postcopy = every(step.postcopy, random);
  return [
    ...cutsAtFrames().map(precopy),
    cutsAtBytes({ direction: 'out', to: bytes.out }, offsets, random),
    cutsAtBytes({ direction: 'in', to: bytes.in, rounds: MANY_ROUNDS }, offsets, random),
    cutsAtBytes({ direction: 'out', to: bytes.backOut, backs: BACKS }, offsets, random),
    cutsAtBytes({ direction: 'in', to: bytes.backIn, backs: BACKS }, offsets, random),
    ...postcopyBytes(bytes.postcopy, Math.ceil(offsets / step.postcopy / 2), random),
    ...otherFaults().map(precopy),
    ...postcopies().map(postcopy),
    ...deathsAtFrames(false).map(precopy),
    ...deathsAtFrames(true).map(postcopy),
    ...WHOLE_NAMES.map(
      (name): CaseSeries => ({
        name: name.replaceAll('-', ' '),
        at: (n) => (n === 0 ? name : undefined),
        untilNotStruck: false,
      }),
    ),
  ];
}

/** Keeps every `step`th case of a series, from a random one of the first ones on. */
function every(step: number, random: () => number): (series: CaseSeries) => CaseSeries {
  const first = step === 1 ? 0 : Math.floor(random() * step);
  return (series) => ({ ...series, at: (n) => series.at(first + n * step) });
}

function everyFrame(one: Omit<FaultCase, 'at'>): CaseSeries {
  const where = one.pageChannels === 0 ? 'one stream' : one.stream === 0 ? 'control' : `page channel ${one.stream}`;
  return {
    name: `${one.kind} before every frame, ${wayOf(one.direction)}, ${where}`,
    at: (frame) => caseName({ ...one, at: { frame } }),
    untilNotStruck: true,
  };
}

function wayOf(direction: 'out' | 'in'): string {
  return direction === 'out' ? 'source to destination' : 'destination to source';
}

/** Cuts the link before every frame in each direction: of the only stream, and of each of three streams. */
function cutsAtFrames(): CaseSeries[] {
  const kind = 'cut';
  return [
    everyFrame({ ...ON_CONTROL, kind, direction: 'out' }),
    everyFrame({ ...ON_CONTROL, kind, direction: 'in' }),
    ...[0, 1, 2].map((stream) => everyFrame({ ...ON_CONTROL, kind, direction: 'out', stream, pageChannels: 2 })),
    everyFrame({ ...ON_CONTROL, kind, direction: 'in', pageChannels: 2 }),
  ];
}

/** Where a series of cuts is. */
interface Places extends Partial<Omit<FaultCase, 'at' | 'kind'>> {
  readonly direction: 'out' | 'in';
  /** The first byte, default 0. */
  readonly from?: number;
  /** One more than the last. */
  readonly to: number;
}

/** Cuts the link at `count` byte offsets (or at each, if there are fewer) of those between two in a direction. */
function cutsAtBytes({ from = 0, to, ...one }: Places, count: number, random: () => number): CaseSeries {
  const { direction, backs = 0, postcopy = false, stream = 0 } = one;
  const cases = Math.min(count, to - from);
  const step = (to - from) / cases;
  // The bytes are divided evenly; each offset is a random one of its part.
  const offsets = Array.from({ length: cases }, (_, n) => from + Math.floor((n + (step > 1 ? random() : 0)) * step));
  const how = postcopy ? `, by post-copy, ${stream === 0 ? 'control' : 'urgent channel'}` : '';
  return {
    name: `cut at ${cases} byte offsets, ${wayOf(direction)}${how}${backs > 0 ? `, having gone back ${backs} times` : ''}`,
    at: (n) => {
      const byte = offsets[n];
      return byte === undefined ? undefined : caseName({ ...ON_CONTROL, ...one, kind: 'cut', at: { byte } });
    },
    untilNotStruck: false,
  };
}

/** Cuts within the post-copy phase, of the control stream and of the urgent channel. */
function postcopyBytes(
  { from, control, urgent }: UncutBytes['postcopy'],
  offsets: number,
  random: () => number,
): CaseSeries[] {
  const one = { rounds: POSTCOPY_ROUNDS, postcopy: true } as const;
  return (['out', 'in'] as const).flatMap((direction) => [
    cutsAtBytes({ ...one, direction, from: from[direction], to: control[direction] }, offsets, random),
    cutsAtBytes({ ...one, direction, stream: 1, to: urgent[direction] }, offsets, random),
  ]);
}

/** The other kinds of faults. A fault that changes bytes needs checksums. */
const OTHER_KINDS: Readonly<Record<Exclude<FaultKind, 'cut'>, { readonly checksum: boolean }>> = {
  'half-close': { checksum: false },
  stall: { checksum: false },
  delay: { checksum: false },
  trickle: { checksum: false },
  corrupt: { checksum: true },
  duplicate: { checksum: true },
  truncate: { checksum: true },
};

/** Every other kind of fault before every frame in each direction. */
function otherFaults(): CaseSeries[] {
  return (Object.keys(OTHER_KINDS) as (keyof typeof OTHER_KINDS)[]).flatMap((kind) =>
    (['out', 'in'] as const).map((direction) =>
      everyFrame({ ...ON_CONTROL, kind, direction, checksum: OTHER_KINDS[kind].checksum }),
    ),
  );
}

/** By post-copy: cuts before every frame of the control stream, of the urgent channel and of a page channel, and stalls. */
function postcopies(): CaseSeries[] {
  const postcopy = { ...ON_CONTROL, rounds: POSTCOPY_ROUNDS, postcopy: true } as const;
  const named = (one: Omit<FaultCase, 'at'>, stream: string): CaseSeries => ({
    ...everyFrame(one),
    name: `${one.kind} before every frame, ${wayOf(one.direction)}, by post-copy, ${stream}`,
  });
  return (['out', 'in'] as const).flatMap((direction) => [
    named({ ...postcopy, kind: 'cut', direction }, 'one stream'),
    named({ ...postcopy, kind: 'cut', direction, stream: 1 }, 'urgent channel'),
    named({ ...postcopy, kind: 'stall', direction, stream: 1 }, 'urgent channel'),
    ...(direction === 'out'
      ? [named({ ...postcopy, kind: 'cut', direction, stream: 1, pageChannels: 1 }, 'page channel 1')]
      : []),
  ]);
}

/** Each process kills itself before every frame that it writes or takes. */
function deathsAtFrames(postcopy: boolean): CaseSeries[] {
  const places = (['source', 'destination'] as const).flatMap((victim) =>
    (['out', 'in'] as const).map((direction): Omit<DeathCase, 'frame'> => ({ victim, direction })),
  );
  return places.map(({ victim, direction }) => ({
    name: `SIGKILL of the ${victim} before every frame that it ${direction === 'out' ? 'writes' : 'takes'}${postcopy ? ', by post-copy' : ''}`,
    at: (frame) => deathName({ victim, direction, frame, postcopy }),
    untilNotStruck: true,
  }));
}
