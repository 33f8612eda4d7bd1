import { abortable } from '../../abortable.js';
import { GodwitError } from '../../errors.js';
import { inTime } from '../../in-time.js';
import type { IncomingSummary } from '../../migration-event.js';
import { CLOSING_MS } from '../../session/closing-message.js';
import { Arrived, type Arriving, type DestinationContext, type DestinationPhase } from '../destination-context.js';
import type { IncomingConnection } from '../incoming-connection.js';
import type { PageReceiver } from '../page-receiver.js';

/** Tells the source that the guest runs here, until it answers `released`, or `settleTimeoutMs` has passed. */
export class Release implements DestinationPhase {
  readonly name = 'release';
  readonly #arriving: Arriving;

  constructor(arriving: Arriving) {
    this.#arriving = arriving;
  }

  async run(context: DestinationContext): Promise<Arrived> {
    const { ownership, session, missing } = context;
    const { vm, hello, loadMs, resumeMs, check, runState, claim, named } = this.#arriving;
    const receiver = this.#arriving.receiver as PageReceiver;
    if (ownership.state === 'running') await this.#tellSource(context);
    await session.current?.close(undefined);
    const summary: IncomingSummary = {
      migrationId: hello.migrationId,
      rounds: receiver.round - 1,
      pages: receiver.totals,
      wireBytes: session.bytesRead,
      loadMs,
      resumeMs,
      // A snapshot's pages that come while the guest runs are compared with their digests before they are put into
      // memory.
      verified: check.passed || (missing !== undefined && named === undefined),
      faults: missing?.status(),
      runState,
    };
    claim.end();
    return new Arrived({ vm, summary });
  }

  async #tellSource(context: DestinationContext): Promise<void> {
    const { ownership, options, emit, session } = context;
    const { clock, settleTimeoutMs } = options;
    const within = Math.max(settleTimeoutMs, CLOSING_MS);
    const giveUp = new AbortController();
    const telling = this.#untilReleased(context, giveUp.signal);
    try {
      await inTime(telling, clock, within, () => new Error('no answer was received'));
      session.told = true;
      ownership.apply('released');
    } catch (error) {
      giveUp.abort(error);
      ownership.apply('giveUp');
      emit({
        type: 'warning',
        code: 'GODWIT_LINK_LOST',
        message:
          `the guest runs here, but the source has not answered "released" within settleTimeoutMs (${settleTimeoutMs} ms): ` +
          `its copy may still exist, paused (${error instanceof Error ? error.message : String(error)})`,
      });
    }
  }

  async #untilReleased(context: DestinationContext, signal: AbortSignal): Promise<void> {
    const { session, emit, options } = context;
    const { resumeMs, sinceReadyMs, loader, welcome, named } = this.#arriving;
    const { incarnation } = welcome;
    let connection = session.current;
    for (let first = true; ; first = false) {
      try {
        if (connection === undefined) throw new GodwitError('GODWIT_LINK_LOST', 'the link was lost');
        const released = connection.expect('released');
        const told = { resumeMs, sinceReadyMs };
        await (first
          ? connection.write(named === undefined ? { type: 'running', ...told } : { type: 'whole' })
          : connection.write({
              type: 'resumed',
              ...{ state: 'running', round: 0, deviceSequences: loader.sequences, deviceResets: loader.resets },
              ...{ incarnation, ...told },
            }));
        connection.keepAlive(options);
        await abortable(released, connection.signal);
        return;
      } catch (error) {
        // The guest runs here whatever the failure was; the source may reconnect and ask.
        const reason = GodwitError.wrap(error, 'GODWIT_LINK_LOST', 'telling the source failed');
        await session.drop(reason);
        // A connection that was lost in the phase before was reported there.
        if (connection !== undefined) emit({ type: 'link-lost', reason });
      }
      connection = await session.next(signal);
      serveReleased(connection);
    }
  }
}

function serveReleased(connection: IncomingConnection): void {
  connection.serve(
    () => 'taking-over',
    ({ frame }) => void connection.answer(frame),
  );
}
