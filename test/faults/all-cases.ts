import type { FaultCase, FaultKind } from './fault-case.js';

/** Few rounds for faults in what the source sends; many for those in the destination's answers, which are short. */
export const FEW_ROUNDS = 3;
export const MANY_ROUNDS = 26;

/** Cases of one kind, which are counted together. */
export interface CaseSeries {
  readonly name: string;
  /** The case number `n`, from 0; `undefined` after the last one. */
  readonly at: (n: number) => FaultCase | undefined;
  /** Ends by itself once a run is over before the place is reached. */
  readonly untilNotStruck: boolean;
}

const ON_CONTROL = { stream: 0, pageChannels: 0, checksum: false, rounds: FEW_ROUNDS } as const;

function everyFrame(one: Omit<FaultCase, 'at'>): CaseSeries {
  const where = one.pageChannels === 0 ? 'one stream' : one.stream === 0 ? 'control' : `page channel ${one.stream}`;
  const way = one.direction === 'out' ? 'source to destination' : 'destination to source';
  return {
    name: `${one.kind} before every frame, ${way}, ${where}`,
    at: (frame) => ({ ...one, at: { frame } }),
    untilNotStruck: true,
  };
}

/** The link is cut before every frame, in each direction: of one stream that carries all, and of each of three. */
export function cutsAtFrames(): CaseSeries[] {
  const kind = 'cut';
  return [
    everyFrame({ ...ON_CONTROL, kind, direction: 'out' }),
    everyFrame({ ...ON_CONTROL, kind, direction: 'in' }),
    ...[0, 1, 2].map((stream) => everyFrame({ ...ON_CONTROL, kind, direction: 'out', stream, pageChannels: 2 })),
    everyFrame({ ...ON_CONTROL, kind, direction: 'in', pageChannels: 2 }),
  ];
}

/** The link is cut at `count` byte offsets (or at each, if there are fewer) of the `bytes` that cross in a direction. */
export function cutsAtBytes(direction: 'out' | 'in', count: number, bytes: number, random: () => number): CaseSeries {
  const rounds = direction === 'out' ? FEW_ROUNDS : MANY_ROUNDS;
  const cases = Math.min(count, bytes);
  const step = bytes / cases;
  // Where there is room, anywhere in its own stretch of the bytes.
  const offsets = Array.from({ length: cases }, (_, n) => Math.floor((n + (step > 1 ? random() : 0)) * step));
  return {
    name: `cut at ${cases} byte offsets, ${direction === 'out' ? 'source to destination' : 'destination to source'}`,
    at: (n) => {
      const byte = offsets[n];
      return byte === undefined ? undefined : { ...ON_CONTROL, kind: 'cut', direction, at: { byte }, rounds };
    },
    untilNotStruck: false,
  };
}

/** Every other kind of fault, before every frame of each direction. Where bytes change, a checksum watches over them. */
export function otherFaults(): CaseSeries[] {
  const kinds: readonly FaultKind[] = ['half-close', 'stall', 'delay', 'trickle', 'corrupt', 'duplicate', 'truncate'];
  return kinds.flatMap((kind) => {
    const checksum = kind === 'corrupt' || kind === 'duplicate' || kind === 'truncate';
    return (['out', 'in'] as const).map((direction) => everyFrame({ ...ON_CONTROL, kind, direction, checksum }));
  });
}
