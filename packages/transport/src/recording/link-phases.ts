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
  URGENT_FRAMES,
  urgentStreamOf,
} from '@godwit/core/pages';
import type { Sender } from './recording-format.js';

/** The phases to which a frame leads in every phase. Transitions that depend on more are in `LinkPhases`. */
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
  released: { source: 'release' },
};

const DESTINATION_PHASES = Object.keys(PROTOCOL.destination) as DestinationPhaseName[];

/** The frames that only one role sends. */
const SAID_BY: Readonly<Record<Sender, ReadonlySet<FrameName>>> = {
  source: new Set<FrameName>([...Object.values(PROTOCOL.destination).flat(), 'attach']),
  destination: new Set<FrameName>([...Object.values(PROTOCOL.source).flat(), 'requestPages']),
};

/**
 * Follows the frames of one connection, in the order in which one of its ends sent and read them, and reports for each whether the
 * protocol's table allows it there. Both roles' phases follow from the frames alone.
 *
 * An illegal frame is followed nevertheless, so that one mistake causes one objection.
 *
 * @example
 * const phases = new LinkPhases();
 * for await (const { frame, track } of readRecording(file)) {
 *   const objection = phases.take(frame, track.sender, track.stream);
 *   if (objection !== undefined) console.log(objection);
 * }
 */
export class LinkPhases {
  readonly #oneWay: boolean;
  #source: SourcePhaseName | undefined;
  #destination: DestinationPhaseName | undefined;
  #hello: HelloFrame | undefined;
  /** Whether device state may come on page channels; true where the hello was not captured. */
  #deviceChannels = true;
  /** Whether the urgent channel was agreed on, or is offered over a further connection. */
  #postcopy = false;
  /** Whether missing pages were named. */
  #missing = false;
  /** Whether the source has sent `switchover` over this connection. */
  #switchedOver = false;
  /** The last attempt that was given up over this connection. */
  #givenUp = 0;
  #begun = false;
  /** Whether a frame was seen that only a source sends. */
  #sourceSpeaks = false;
  /** Whether the captured stream began with `attach`. */
  #attached = false;

  /** `oneWay`: only the source's frames are there, as in the captured bytes of a stream. The answers to them count as given. */
  constructor(options: { readonly oneWay?: boolean } = {}) {
    this.#oneWay = options.oneWay ?? false;
    if (!this.#oneWay) this.#destination = 'greeting';
  }

  /** The phase that the source is in; `undefined` before its hello, and where the frames do not show it. */
  get source(): SourcePhaseName | undefined {
    return this.#source;
  }

  /** The phase that the destination is in; `undefined` where the frames do not show it. */
  get destination(): DestinationPhaseName | undefined {
    return this.#destination;
  }

  /**
   * Takes the next frame of a stream, 0 for the control stream and n for page channel n - 1. Returns the protocol's objection to it at
   * this point. Without `sender` the sender is derived from the frame's type.
   */
  take(frame: Frame, sender?: Sender, stream = 0): string | undefined {
    const { type } = frame;
    const from = sender ?? this.#senderOf(type);
    if (type === 'attach' && this.#oneWay && !this.#begun) this.#attached = true;
    const objection = this.isUrgent(stream)
      ? this.#urgent(type, from)
      : this.#objection(type, from, stream > 0 || this.#attached);
    this.#begun ||= !ALWAYS.includes(type);
    this.#sourceSpeaks ||= !SAID_BY.destination.has(type);
    if (SAID_BY[from].has(type)) this.#move(frame);
    return objection;
  }

  /** Whether this stream is the urgent channel. */
  isUrgent(stream: number): boolean {
    return this.#postcopy && this.#hello !== undefined && stream === urgentStreamOf(this.#hello);
  }

  /**
   * The sender of a frame of this type. Both roles send `missing`: it is the source's where a hello or a frame that only a source sends
   * was seen.
   */
  #senderOf(type: FrameName): Sender {
    if (type === 'missing' && this.#begun) return this.#sourceSpeaks ? 'source' : 'destination';
    return SAID_BY.destination.has(type) ? 'destination' : 'source';
  }

  /**
   * The objection to a frame on the urgent channel. The phases do not apply to it, since its frames overtake those of the control
   * stream.
   */
  #urgent(type: FrameName, sender: Sender): string | undefined {
    if (type === 'error') return undefined;
    const own = sender === 'destination' ? 'requestPages' : 'pages';
    if (type !== own)
      return `"${type}" from the ${sender} on the urgent channel, which carries ${URGENT_FRAMES.join(' and ')} only`;
    const open = this.#hello?.stage === 'running' ? this.#switchedOver && this.#missing : true;
    return open ? undefined : `"${type}" on the urgent channel, though no page is missing yet`;
  }

  #objection(type: FrameName, sender: Sender, onPageChannel: boolean): string | undefined {
    if (!this.#begun && !this.#oneWay && type !== 'hello' && !ALWAYS.includes(type)) {
      // The phase is unknown in a capture that begins in the middle of a connection.
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
    if (!onPageChannel && pages && this.#pageChannels > 0) {
      return `"${type}" on the control stream, though there are page channels`;
    }
    // A piece may come later than the `switchover` that was sent after it: the destination then waits for it.
    if (onPageChannel && type === 'device' && this.#destination === 'loading') return undefined;
    return this.#toDestination(type);
  }

  #toSource(type: FrameName, onPageChannel: boolean): string | undefined {
    // A capture of the urgent channel alone does not show which stream it is.
    if (type === 'requestPages' && this.#oneWay && this.#hello === undefined) return undefined;
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
    // The next frame is judged by the phase in which this one would have been legal, if there is only one such phase.
    const likely = legalIn.filter((other) => other !== 'post-copy' || this.#missing);
    if (likely.length === 1) this.#destination = likely[0];
    if (this.#oneWay && answered(phase, this.#missing).some((later) => legalIn.includes(later))) return undefined;
    return illegal(type, 'source', `the destination is in phase "${phase}"`, PROTOCOL.destination[phase]);
  }

  #move(frame: Frame): void {
    if (frame.type === 'hello') this.#hello = frame;
    // The features of a further connection were agreed on over the first one; its hello offers the same.
    if (frame.type === 'hello' || frame.type === 'welcome') this.#agreed(frame.features);
    if (frame.type === 'resumed') {
      this.#resumed(frame);
      return;
    }
    if (frame.type === 'back') this.#givenUp = Math.max(this.#givenUp, frame.attempt);
    // On page channels pieces may come later than frames that were sent after them: `switchover`, or `back`, which has made them void.
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
    if (frame.type === 'switchover' || frame.type === 'back') this.#switchedOver = frame.type === 'switchover';
    if (frame.type === 'running' && this.#postcopy) {
      // Over a further connection no page is named when all have come: either phase may then follow, and the destination's `post-copy`
      // has the frames of both.
      const unknown = !this.#missing && this.#hello?.stage !== 'running';
      this.#source = unknown ? undefined : this.#missing ? 'post-copy' : 'release';
      if (unknown || this.#missing) this.#destination = 'post-copy';
      return;
    }
    const { source, destination } = LEADS_TO[frame.type] ?? {};
    this.#source = source ?? this.#source;
    this.#destination = destination ?? this.#destination;
  }

  /** The number of page channels that carry rounds. */
  get #pageChannels(): number {
    const { pageChannels = 0 } = this.#hello ?? {};
    return this.#postcopy && pageChannels > 0 ? pageChannels - 1 : pageChannels;
  }

  #agreed(features: readonly string[]): void {
    this.#deviceChannels = features.includes(FEATURES.deviceChannels);
    this.#postcopy = features.includes(FEATURES.postcopy);
  }

  #resumed({ state }: ResumedFrame): void {
    const stage = this.#hello?.stage;
    if (state === 'receiving') this.#missing = false;
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

/** The phases in which a destination may be after its answer, where the answer was not captured. */
function answered(phase: DestinationPhaseName, missing: boolean): readonly DestinationPhaseName[] {
  if (phase === 'preparing') return ['receiving', 'loading', 'ready', 'taking-over', 'post-copy', 'kept'];
  if (phase === 'taking-over' && missing) return ['post-copy'];
  return phase === 'loading' ? ['ready'] : [];
}

function illegal(type: FrameName, sender: Sender, where: string, legal: readonly FrameName[]): string {
  return `"${type}" from the ${sender} while ${where}; legal there: ${legal.join(', ') || 'nothing but ping, pong and error'}`;
}
