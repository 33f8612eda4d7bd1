import {
  ALWAYS,
  ANY_STREAM_FRAMES,
  type DestinationPhaseName,
  FEATURES,
  type Frame,
  type FrameName,
  type HelloFrame,
  isLegal,
  PAGE_CHANNEL_FRAMES,
  PROTOCOL,
  type ResumedFrame,
  type SourcePhaseName,
} from '@godwit/core/pages';
import type { Sender } from './recording-format.js';

/** The phases that a frame leads to, in whatever phases it comes. Those that depend on more are in `LinkPhases`. */
const LEADS_TO: Partial<
  Record<FrameName, { readonly source?: SourcePhaseName; readonly destination?: DestinationPhaseName }>
> = {
  hello: { source: 'greeting', destination: 'preparing' },
  welcome: { source: 'pre-copy', destination: 'receiving' },
  switchover: { source: 'loading', destination: 'loading' },
  ready: { source: 'deciding', destination: 'ready' },
  digests: { source: 'verifying' },
  digestsEnd: { source: 'verifying' },
  verified: { source: 'deciding' },
  back: { source: 'going-back', destination: 'receiving' },
  backAck: { source: 'pre-copy' },
  go: { source: 'handing-over', destination: 'taking-over' },
  running: { source: 'release' },
  whole: { source: 'release' },
};

const DESTINATION_PHASES = Object.keys(PROTOCOL.destination) as DestinationPhaseName[];

/** Frames that one role alone sends. */
const SAID_BY: Readonly<Record<Sender, ReadonlySet<FrameName>>> = {
  source: new Set<FrameName>([...Object.values(PROTOCOL.destination).flat(), 'attach']),
  destination: new Set(Object.values(PROTOCOL.source).flat()),
};

/**
 * Reads along the frames of one connection, in the order in which one of its ends sent and read them, and says of each
 * whether the protocol's table allows it there. Both roles' phases follow from the frames alone.
 *
 * A frame that is illegal is taken all the same: one lapse is one objection.
 *
 * @example
 * const phases = new LinkPhases();
 * for await (const { frame, track } of readRecording(file)) {
 *   const objection = phases.take(frame, track.sender, track.stream > 0);
 *   if (objection !== undefined) console.log(objection);
 * }
 */
export class LinkPhases {
  readonly #oneWay: boolean;
  #source: SourcePhaseName | undefined;
  #destination: DestinationPhaseName | undefined;
  #hello: HelloFrame | undefined;
  /** Device state may come on page channels. Where the hello is not to be seen, it may. */
  #deviceChannels = true;
  /** One of the page channels is the urgent one. */
  #postcopy = true;
  /** The source has named pages that are to be missing. */
  #missing = false;
  /** The last attempt that was given up over this connection. */
  #givenUp = 0;
  #begun = false;
  /** The captured stream began with `attach`. */
  #attached = false;

  /** `oneWay`: only what the source says is there, as in the captured bytes of a stream. The answers to it count as given. */
  constructor(options: { readonly oneWay?: boolean } = {}) {
    this.#oneWay = options.oneWay ?? false;
    if (!this.#oneWay) this.#destination = 'greeting';
  }

  /** The phase that the source is in; `undefined` before its hello, and where the frames do not tell. */
  get source(): SourcePhaseName | undefined {
    return this.#source;
  }

  /** The phase that the destination is in; `undefined` where the frames do not tell. */
  get destination(): DestinationPhaseName | undefined {
    return this.#destination;
  }

  /**
   * Takes the next frame. Returns what the protocol has against it at this point. Where `sender` is not known, the frame's type
   * tells.
   */
  take(frame: Frame, sender?: Sender, onPageChannel = false): string | undefined {
    const { type } = frame;
    const from = sender ?? (SAID_BY.destination.has(type) ? 'destination' : 'source');
    if (type === 'attach' && this.#oneWay && !this.#begun) this.#attached = true;
    const objection = this.#objection(type, from, onPageChannel || this.#attached);
    this.#begun ||= !ALWAYS.includes(type);
    if (SAID_BY[from].has(type)) this.#move(frame);
    return objection;
  }

  #objection(type: FrameName, sender: Sender, onPageChannel: boolean): string | undefined {
    if (!this.#begun && !this.#oneWay && type !== 'hello' && !ALWAYS.includes(type)) {
      // Nothing is known of a connection that is joined later.
      this.#destination = undefined;
      return `the first frame is "${type}"; a "hello" begins a connection`;
    }
    if (sender === 'destination') return this.#toSource(type, onPageChannel);
    if (type === 'attach' && this.#attached && !this.#begun) return undefined;
    const pages = PAGE_CHANNEL_FRAMES.includes(type);
    const maybe = ANY_STREAM_FRAMES.includes(type) && this.#deviceChannels;
    if (onPageChannel && !pages && !maybe && type !== 'error') {
      const what = this.#deviceChannels ? 'pages and device state only' : 'pages only';
      return `"${type}" on a page channel, which carries ${what}`;
    }
    if (!onPageChannel && pages && (this.#hello?.pageChannels ?? 0) > 0) {
      return `"${type}" on the control stream, though there are page channels`;
    }
    // An answer on the urgent channel, which the phases of the control stream do not bind.
    if (onPageChannel && type === 'pages' && this.#postcopy && this.#missing) return undefined;
    // A piece may come later than the `switchover` that was sent after it: the destination then waits for it.
    if (onPageChannel && type === 'device' && this.#destination === 'loading') return undefined;
    return this.#toDestination(type);
  }

  #toSource(type: FrameName, onPageChannel: boolean): string | undefined {
    if (onPageChannel && type === 'requestPages' && this.#postcopy) return undefined;
    if (onPageChannel && type !== 'error')
      return `"${type}" from the destination on a page channel, where it says nothing`;
    const phase = this.#source;
    if (phase === undefined || this.#oneWay || isLegal('source', phase, type)) return undefined;
    return illegal(type, 'destination', `the source is in phase "${phase}"`, PROTOCOL.source[phase]);
  }

  #toDestination(type: FrameName): string | undefined {
    const phase = this.#destination;
    if (phase === undefined || isLegal('destination', phase, type)) return undefined;
    const legalIn = DESTINATION_PHASES.filter((other) => isLegal('destination', other, type));
    // The next frame is judged by the phase in which this one would have been right, where there is only one.
    if (legalIn.length === 1) this.#destination = legalIn[0];
    if (this.#oneWay && answered(phase).some((later) => legalIn.includes(later))) return undefined;
    return illegal(type, 'source', `the destination is in phase "${phase}"`, PROTOCOL.destination[phase]);
  }

  #move(frame: Frame): void {
    if (frame.type === 'hello') this.#hello = frame;
    // What a further connection goes by was agreed on over the first one; its hello offers the same.
    if (frame.type === 'hello' || frame.type === 'welcome')
      [this.#deviceChannels, this.#postcopy] = [FEATURES.deviceChannels, FEATURES.postcopy].map((feature) =>
        frame.features.includes(feature),
      ) as [boolean, boolean];
    if (frame.type === 'resumed') {
      this.#resumed(frame);
      return;
    }
    if (frame.type === 'back') this.#givenUp = Math.max(this.#givenUp, frame.attempt);
    // On page channels pieces may come later than what was said after them: `switchover`, or `back`, which has voided them.
    if (frame.type === 'device' && frame.attempt > this.#givenUp && this.#source !== 'loading')
      this.#source = 'stop-and-copy';
    // Answers to an attempt that was given up meanwhile change nothing.
    if (this.#source === 'going-back' && (frame.type === 'ready' || frame.type === 'verified')) return;
    if (frame.type === 'welcome' && this.#hello?.stage === 'dryRun') {
      this.#source = 'release';
      this.#destination = 'dry-run';
      return;
    }
    if (frame.type === 'missing' || frame.type === 'back') this.#missing = frame.type === 'missing';
    if (frame.type === 'running' && this.#missing) {
      this.#source = 'post-copy';
      this.#destination = 'post-copy';
      return;
    }
    const { source, destination } = LEADS_TO[frame.type] ?? {};
    this.#source = source ?? this.#source;
    this.#destination = destination ?? this.#destination;
  }

  #resumed({ state }: ResumedFrame): void {
    const stage = this.#hello?.stage;
    if (stage === 'kept') {
      this.#source = 'release';
      this.#destination = 'kept';
      return;
    }
    const phases = {
      receiving: [stage === 'paused' ? 'stop-and-copy' : 'pre-copy', 'receiving'],
      loading: ['loading', 'loading'],
      ready: ['deciding', 'ready'],
      running: ['release', 'taking-over'],
      incomplete: ['post-copy', 'post-copy'],
    } as const;
    [this.#source, this.#destination] = phases[state];
  }
}

/** The phases in which a destination may be that has answered since, where the answer is not to be seen. */
function answered(phase: DestinationPhaseName): readonly DestinationPhaseName[] {
  if (phase === 'preparing') return ['receiving', 'loading', 'ready', 'taking-over', 'kept'];
  return phase === 'loading' ? ['ready'] : [];
}

function illegal(type: FrameName, sender: Sender, where: string, legal: readonly FrameName[]): string {
  return `"${type}" from the ${sender} while ${where}; legal there: ${legal.join(', ') || 'nothing but ping, pong and error'}`;
}
