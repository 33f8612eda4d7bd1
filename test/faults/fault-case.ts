import type { Fault, FaultPlace } from '@godwit/transport/testing';

/** A kind of fault of a link. */
export type FaultKind = Fault['kind'];

/** A fault in one direction of one stream of the first connection. `out` is from source to destination. */
export interface FaultCase {
  readonly kind: FaultKind;
  readonly direction: 'out' | 'in';
  /** 0 is the control stream, 1 and more the page channels. */
  readonly stream: number;
  readonly at: FaultPlace;
  readonly pageChannels: number;
  /** Least number of pre-copy rounds: higher if the place is in the destination's answers, of which a round has few. */
  readonly rounds: number;
  readonly checksum: boolean;
  /** Number of stop-and-copies that overrun the pause limit (default 0): the migration goes back that often. */
  readonly backs?: number;
  /** After `rounds` rounds the rest follows by post-copy (default false). One more stream, after the page channels, is the urgent channel. */
  readonly postcopy?: boolean;
}

/** Names a case, for reports and for `--only`: `cut:out:0:frame=7:channels=0`. */
export function caseName(one: FaultCase): string {
  const { kind, direction, stream, at, pageChannels, rounds, checksum, backs = 0, postcopy = false } = one;
  const place = 'frame' in at ? `frame=${at.frame}` : 'byte' in at ? `byte=${at.byte}` : `below=${at.below}`;
  const options = `${checksum ? ':checksum' : ''}${backs > 0 ? `:backs=${backs}` : ''}${postcopy ? ':postcopy' : ''}`;
  return `${kind}:${direction}:${stream}:${place}:channels=${pageChannels}:rounds=${rounds}${options}`;
}

/** Parses the name of a case. Throws if it is not one. */
export function parseCase(name: string): FaultCase {
  const [kind, direction, stream, place = '', ...options] = name.split(':');
  const [unit, number] = place.split('=');
  const values = new Map(options.map((option) => option.split('=') as [string, string | undefined]));
  const one = {
    kind: kind as FaultKind,
    direction: direction as 'out' | 'in',
    stream: Number(stream),
    at: { [unit as string]: Number(number) } as unknown as FaultPlace,
    pageChannels: Number(values.get('channels')),
    rounds: Number(values.get('rounds')),
    checksum: values.has('checksum'),
    backs: Number(values.get('backs') ?? 0),
    postcopy: values.has('postcopy'),
  };
  if (caseName(one) !== name) {
    throw new Error(`"${name}" is no case; they look like ${caseName(EXAMPLE)}`);
  }
  return one;
}

const EXAMPLE: FaultCase = {
  kind: 'cut',
  direction: 'out',
  stream: 0,
  at: { frame: 7 },
  pageChannels: 0,
  rounds: 3,
  checksum: false,
};
