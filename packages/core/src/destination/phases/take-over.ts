import { GodwitError } from '../../errors.js';
import { inTime } from '../../in-time.js';
import type { ReceivedFrame } from '../../link/frame-stream.js';
import {
  type Arriving,
  type DestinationContext,
  type DestinationPhase,
  type HandlingPhase,
  transferOf,
} from '../destination-context.js';
import type { IncomingConnection } from '../incoming-connection.js';

/** How long the ownership authority may take to answer, and the pause before it is asked again. Milliseconds. */
const ASK_MS = 30_000;
const ASK_AGAIN_MS = 500;

/** Takes the guest over after `go`, or after the embedder has declared the source dead: asks the authority and starts the guest. */
export class TakeOver implements HandlingPhase {
  readonly name = 'take-over';
  readonly protocolPhase = 'taking-over';
  readonly #context: DestinationContext;
  readonly #arriving: Arriving;

  private constructor(context: DestinationContext, arriving: Arriving) {
    this.#context = context;
    this.#arriving = arriving;
  }

  /** Makes the phase. Frames are handled by it from this tick on. */
  static begin(context: DestinationContext, arriving: Arriving): TakeOver {
    const takeOver = new TakeOver(context, arriving);
    context.serving = takeOver;
    return takeOver;
  }

  async run(context: DestinationContext): Promise<DestinationPhase> {
    const { ownership, setState, options, emit } = context;
    const arriving = this.#arriving;
    if (ownership.state === 'asking') await this.#ask();
    setState('device');
    const { clock } = options;
    const start = clock.now();
    if (options.onArrival === 'pause') arriving.runState = 'paused';
    try {
      if (arriving.runState === 'running') await arriving.vm.resume();
    } catch (error) {
      if (ownership.allows('strand')) ownership.apply('strand');
      throw GodwitError.wrap(
        error,
        'GODWIT_VM_FAILED',
        'the guest was handed over, but could not be started at the destination',
      );
    }
    arriving.resumeMs = clock.now() - start;
    arriving.sinceReadyMs = clock.now() - arriving.readyAt;
    const { missing, phases } = context;
    if (missing !== undefined) setState('postcopy-active');
    emit({ type: 'running', resumeMs: arriving.resumeMs });
    if (arriving.named !== undefined) admitPages(arriving);
    return missing === undefined ? phases.release(arriving) : phases.postCopy(arriving, missing);
  }

  /** Handles the frame that the next phase waits for (`released`). */
  handle({ frame }: ReceivedFrame): void {
    if ((this.#context.session.current as IncomingConnection).answer(frame)) return;
    throw new GodwitError('GODWIT_PROTOCOL', `the source sent "${frame.type}" before it got "running"`);
  }

  /** Asks the authority until it answers: the guest never runs without its permission. */
  async #ask(): Promise<void> {
    const { ownership, options, emit } = this.#context;
    const { clock, authority } = options;
    for (;;) {
      try {
        const asking = authority.mayRun(transferOf(this.#arriving), 'destination');
        const late = () => new Error(`it has not answered within ${ASK_MS} ms`);
        if (await inTime(asking, clock, ASK_MS, late)) break;
        ownership.apply('denied');
        throw new GodwitError(
          'GODWIT_NOT_OWNER',
          'the source sent "go", but the ownership authority says that the guest is not this side\'s; its memory is kept',
        );
      } catch (error) {
        if (ownership.state !== 'asking') throw error;
        const message = `the ownership authority could not be asked, and is asked again: ${error instanceof Error ? error.message : String(error)}`;
        emit({ type: 'warning', code: 'GODWIT_TIMEOUT', message });
        await clock.sleep(ASK_AGAIN_MS);
      }
    }
    ownership.apply('granted');
  }
}

/** Admits pages again, for a guest that runs. */
function admitPages({ receiver }: Arriving): void {
  receiver?.board.beginMissing();
  receiver?.unseal();
}
