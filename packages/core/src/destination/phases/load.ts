import { GodwitError } from '../../errors.js';
import { inTime } from '../../in-time.js';
import type { ReceivedFrame } from '../../link/frame-stream.js';
import type { DirtyBitmaps } from '../../memory/dirty-bitmaps.js';
import type { HelloFrame } from '../../protocol/frame.js';
import {
  type Arriving,
  type DestinationContext,
  type DestinationPhase,
  type ServingPhase,
  transferOf,
} from '../destination-context.js';
import { acknowledgeBack, goBackTo } from '../go-back.js';
import type { IncomingConnection } from '../incoming-connection.js';
import { checkPayload } from '../read-page-channel.js';
import { askForMissing, readFrom, serve } from '../serve.js';
import { serveNamed } from '../serve-missing.js';

/** How long the ownership authority may take to answer a `recover`. Milliseconds. */
const RECOVER_MS = 30_000;

/**
 * Loads the devices, with the guest paused at the source and everything sent, and answers `ready`. After that the phase waits for
 * `go`, with or without a link and without a time limit; only a message of the source leads back to receiving.
 */
export class Load implements ServingPhase {
  readonly name = 'load';
  readonly next: Promise<DestinationPhase>;
  protocolPhase: 'loading' | 'ready' = 'loading';
  #lead: (phase: DestinationPhase) => void = () => {};
  #fail: (error: unknown) => void = () => {};
  readonly #context: DestinationContext;
  readonly #arriving: Arriving;

  private constructor(context: DestinationContext, arriving: Arriving) {
    this.#context = context;
    this.#arriving = arriving;
    this.next = new Promise((resolve, reject) => {
      this.#lead = resolve;
      this.#fail = reject;
    });
    this.next.catch(() => {});
  }

  /** Makes the phase and begins to load. Frames are handled by it from this tick on. */
  static begin(context: DestinationContext, arriving: Arriving): Load {
    const load = new Load(context, arriving);
    context.serving = load;
    load.#load().catch((error: unknown) => load.#fail(error));
    return load;
  }

  run(context: DestinationContext): Promise<DestinationPhase> {
    return serve(context, this);
  }

  take(connection: IncomingConnection): void {
    readFrom(this.#context, this.#arriving, connection);
  }

  returned({ stage, attempt }: HelloFrame): ServingPhase {
    if (stage === 'running') return this.#back(attempt);
    const known = this.#arriving.attempt;
    if (stage === 'kept' || attempt === known) return this;
    throw new GodwitError('GODWIT_PROTOCOL', `the source comes back in attempt ${attempt}; ${known} is loaded here`);
  }

  handle({ frame, payloadBytes }: ReceivedFrame): void | Promise<void> {
    checkPayload(frame.type, payloadBytes);
    const connection = this.#context.session.current as IncomingConnection;
    const { check } = this.#arriving;
    switch (frame.type) {
      case 'back':
        this.#checkAttempt('back', frame.attempt);
        this.#back(frame.attempt + 1);
        return this.#acknowledgeBack(connection, frame.attempt);
      case 'digests':
        return check.compare(connection.control, frame, payloadBytes);
      case 'digestsEnd':
        // The comparison is not awaited, so that frames are read meanwhile: the source may give up.
        void connection.borrow(
          check.finish().then(
            (verified) => connection.write(verified).catch(() => {}),
            (error: unknown) => connection.end(GodwitError.wrap(error, 'GODWIT_INTERNAL', 'the comparison failed')),
          ),
        );
        return;
      case 'go':
        this.#checkAttempt('go', frame.attempt);
        check.admitGo();
        this.#context.ownership.apply('go');
        this.#lead(this.#context.phases.takeOver(this.#arriving));
        return;
      default:
    }
  }

  /**
   * Takes the guest over without `go`, if the authority allows it: the embedder has declared the source dead. Rejects with
   * `GODWIT_PAGES_MISSING` while pages are missing.
   */
  async recover(): Promise<void> {
    const { ownership, session, options, missing } = this.#context;
    const lacking = missing?.status().pagesMissing ?? 0;
    if (lacking > 0) throw this.#arriving.named === undefined ? stillInTheSnapshot(lacking) : onlyAtTheSource(lacking);
    ownership.apply('recover');
    session.current?.end(new GodwitError('GODWIT_RECOVERED', 'the source was declared dead'));
    try {
      const asking = options.authority.mayRun(transferOf(this.#arriving), 'destination');
      const late = () => new GodwitError('GODWIT_TIMEOUT', 'the ownership authority has not answered');
      if (!(await inTime(asking, options.clock, RECOVER_MS, late))) {
        throw new GodwitError(
          'GODWIT_NOT_OWNER',
          "the ownership authority says that the guest is not the destination's",
        );
      }
    } catch (error) {
      ownership.apply('denied');
      throw error;
    }
    ownership.apply('granted');
    session.closeReturns(new GodwitError('GODWIT_RECOVERED', 'the source was declared dead; the guest runs here'));
    this.#lead(this.#context.phases.takeOver(this.#arriving));
  }

  async #load(): Promise<void> {
    const { options, ownership, session } = this.#context;
    const arriving = this.#arriving;
    const { attempt, loader } = arriving;
    const start = options.clock.now();
    if (arriving.named !== undefined) await this.#serveMissing(arriving.named);
    // The attempt was given up meanwhile.
    if (this.#context.serving !== this || session.signal.aborted) return;
    const loading = loader.loadAll(attempt);
    arriving.claim.keepUntil(loading, 'load() of a device');
    await loading;
    // The attempt was given up meanwhile; the devices wait for the end of this load before the next attempt is loaded.
    if (this.#context.serving !== this || session.signal.aborted) return;
    arriving.loadMs = options.clock.now() - start;
    arriving.readyAt = options.clock.now();
    ownership.apply('ready');
    this.protocolPhase = 'ready';
    const { loadMs } = arriving;
    // A failure to write is ignored: `resumed` tells a source that reconnects.
    void session.current?.write({ type: 'ready', attempt, loadMs }).catch(() => {});
  }

  /**
   * From now on the pages that the source has named are missing: a device that loads, and later the guest, waits for a missing page
   * until it comes.
   */
  async #serveMissing(named: DirtyBitmaps): Promise<void> {
    const context = this.#context;
    const { claim } = this.#arriving;
    const serving = serveNamed(context, this.#arriving, named, () => context.serving === this);
    claim.keepUntil(serving, 'serving the missing pages of the VM');
    context.servingMissing = serving.catch(() => {});
    await serving;
    const { current } = context.session;
    if (current !== undefined) askForMissing(context, current);
  }

  #back(attempt: number): ServingPhase {
    goBackTo(this.#context, this.#arriving, attempt);
    const receive = this.#context.phases.receive(this.#arriving);
    this.#lead(receive);
    return receive;
  }

  async #acknowledgeBack(connection: IncomingConnection, attempt: number): Promise<void> {
    await this.#context.undoing;
    await acknowledgeBack(connection, this.#arriving, attempt);
  }

  #checkAttempt(type: string, attempt: number): void {
    const known = this.#arriving.attempt;
    if (attempt === known) return;
    throw new GodwitError('GODWIT_PROTOCOL', `"${type}" is for attempt ${attempt}; attempt ${known} is loaded here`);
  }
}

/** The error for a switchover by post-copy: only the source has the pages, and it is said to be dead. */
function onlyAtTheSource(pages: number): GodwitError {
  return new GodwitError(
    'GODWIT_PAGES_MISSING',
    `${pages} pages of the guest are only at the source: if it is dead they are lost, and the guest cannot run here. cancel() ends this`,
  );
}

/** The error for a restore that runs at once: its pages come from the snapshot, and nothing but the restore itself waits to run its guest. */
function stillInTheSnapshot(pages: number): GodwitError {
  return new GodwitError(
    'GODWIT_PAGES_MISSING',
    `${pages} pages of the guest are still in its snapshot, from which they come while it runs. A restore has no source that could be dead: ` +
      'its guest runs here without recover(), once its devices are loaded. If it does not, cancel() and restore the snapshot again, which is unchanged',
  );
}
