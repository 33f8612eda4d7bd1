import { GodwitError } from '../../errors.js';
import { settledWithin } from '../../in-time.js';
import type { ReceivedFrame } from '../../link/frame-stream.js';
import type { MissingMemory } from '../../missing/missing-memory.js';
import type { Arriving, DestinationContext, DestinationPhase, HandlingPhase } from '../destination-context.js';
import type { IncomingConnection } from '../incoming-connection.js';
import { overConnections } from '../over-connections.js';
import type { PageReceiver } from '../page-receiver.js';
import { checkPayload, isPageFrame, takePageFrame } from '../read-page-channel.js';
import { channelEnded } from '../serve.js';

/**
 * How long the pause of a guest may take whose missing pages cannot be had: `WAITING_PAUSE_MS` while its vCPUs may wait for a page,
 * `PAUSE_MS` after the waiting was ended. Milliseconds.
 */
const WAITING_PAUSE_MS = 1_000;
const PAUSE_MS = 10_000;

/**
 * The phase in which the guest runs here while its pages come, from a snapshot or from the source over any number of connections. The next
 * phase follows when all pages are there. When pages cannot be had, the guest is paused where it is, and the missing pages are marked so
 * that nothing reads zeros in their place.
 */
export class PostCopy implements HandlingPhase {
  readonly name = 'post-copy';
  readonly protocolPhase = 'post-copy';
  readonly #context: DestinationContext;
  readonly #arriving: Arriving;
  readonly #missing: MissingMemory;

  private constructor(context: DestinationContext, arriving: Arriving, missing: MissingMemory) {
    this.#context = context;
    this.#arriving = arriving;
    this.#missing = missing;
  }

  /** Makes the phase. Frames are handled by it from this tick on. */
  static begin(context: DestinationContext, arriving: Arriving, missing: MissingMemory): PostCopy {
    const postCopy = new PostCopy(context, arriving, missing);
    context.serving = postCopy;
    return postCopy;
  }

  async run(context: DestinationContext): Promise<DestinationPhase> {
    const { emit, phases } = context;
    const [over, lost] = [new AbortController(), new AbortController()];
    void this.#report(context, over.signal);
    const ends = { over: over.signal, lost: lost.signal };
    const receiving = this.#arriving.named === undefined ? undefined : overConnections(context, this, ends);
    this.#missing.loadRest();
    try {
      await Promise.race([this.#missing.whole, context.pagesGivenUp]);
      context.pagesCame = true;
      over.abort();
      await receiving;
      emit({ type: 'faults', faults: this.#missing.status() });
      return phases.release(this.#arriving);
    } catch (error) {
      lost.abort();
      over.abort();
      await receiving;
      emit({ type: 'faults', faults: this.#missing.status() });
      await this.#stand(context);
      throw GodwitError.wrap(error, 'GODWIT_PAGES_MISSING', 'the pages of the guest cannot be had');
    }
  }

  /** Handles pages, where they come on the control stream, and the frame that the next phase waits for (`released`). */
  handle(received: ReceivedFrame): void | Promise<void> {
    const { frame, payloadBytes } = received;
    checkPayload(frame.type, payloadBytes);
    const connection = this.#context.session.current as IncomingConnection;
    if (isPageFrame(frame.type)) return this.#pages(connection, received);
    if (connection.answer(frame)) return;
    throw new GodwitError('GODWIT_PROTOCOL', `the source sent "${frame.type}" while pages are missing here`);
  }

  async #pages(connection: IncomingConnection, received: ReceivedFrame): Promise<void> {
    const receiver = this.#arriving.receiver as PageReceiver;
    if (connection.pageChannels.length > 0 || !receiver.board.missing) {
      throw new GodwitError('GODWIT_PROTOCOL', `the source sent "${received.frame.type}" on the control stream`);
    }
    await takePageFrame(connection.control, received, receiver.writer(0), (round, pages) =>
      channelEnded(this.#context, connection, receiver, 0, round, pages),
    );
    this.#missing.arrived();
  }

  /**
   * Stops the guest where it is. A vCPU that waits for a page cannot always be called out of the guest; once the page is marked as one that
   * never comes, the vCPU leaves the guest with an error of its own. The VM stays claimed until `pause` has returned.
   */
  async #stand({ ownership, options, emit }: DestinationContext): Promise<void> {
    const { vm, claim } = this.#arriving;
    if (ownership.allows('strand')) ownership.apply('strand');
    const warn = (message: string): void => emit({ type: 'warning', code: 'GODWIT_VM_FAILED', message });
    let returned = false;
    const pausing = Promise.resolve()
      .then(() => vm.pause())
      .catch((error: unknown) =>
        warn(
          `the guest whose pages are missing could not be paused: ${error instanceof Error ? error.message : String(error)}`,
        ),
      )
      .finally(() => {
        returned = true;
      });
    claim.keepUntil(pausing, 'pause() of the VM');
    await settledWithin(pausing, options.clock, WAITING_PAUSE_MS);
    await this.#missing.end();
    await settledWithin(pausing, options.clock, PAUSE_MS);
    if (!returned) warn('pause() has not returned: vCPUs of the guest whose pages are missing may still run');
  }

  async #report({ options, emit }: DestinationContext, over: AbortSignal): Promise<void> {
    const { clock, progressIntervalMs } = options;
    if (progressIntervalMs === 0) return;
    try {
      for (;;) {
        await clock.sleep(progressIntervalMs, over);
        emit({ type: 'faults', faults: this.#missing.status() });
      }
    } catch {
      // All pages are there, or will not be.
    }
  }
}
