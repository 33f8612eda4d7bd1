import { abortable } from '../abortable.js';
import { addNamedPages } from '../destination/run-check.js';
import { GodwitError } from '../errors.js';
import { inTime } from '../in-time.js';
import { DirtyBitmaps } from '../memory/dirty-bitmaps.js';
import type { GuestMemory } from '../memory/guest-memory.js';
import type { ResumedFrame } from '../protocol/frame.js';
import { keepTrying, mayRetry } from '../session/retry.js';
import type { ResolvedOptions } from './options.js';
import type { HandedOver } from './paused-times.js';
import type { NamedBefore, SourceConnection } from './source-connection.js';
import type { SourceContext } from './source-context.js';

/** How long `settle()` asks when `settleTimeoutMs` is 0. Milliseconds. */
const SETTLE_MS = 30_000;

/** The destination runs the guest. `incomplete`: pages are missing there, and `connection` is the one over which to send them. */
export interface Settled extends HandedOver {
  readonly incomplete: boolean;
}

/** Sends `go` in this tick and waits for `running`; rejects with the error of `late` after `switchoverTimeoutMs`. */
export async function sendGo(
  connection: SourceConnection,
  { clock, switchoverTimeoutMs }: ResolvedOptions,
  attempt: number,
  late = notRunning,
): Promise<HandedOver> {
  const asking = connection.ask({ type: 'go', attempt }, 'running');
  const { resumeMs, sinceReadyMs } = await inTime(asking, clock, switchoverTimeoutMs, () => late(switchoverTimeoutMs));
  return { resumeMs, sinceReadyMs, heardAt: clock.now() };
}

function notRunning(timeoutMs: number): GodwitError {
  return new GodwitError(
    'GODWIT_TIMEOUT',
    `the destination did not answer "running" within switchoverTimeoutMs (${timeoutMs} ms)`,
  );
}

/** Settles the migration after `go` was sent and `running` did not come (`settle`), unless `settleTimeoutMs` is 0. */
export async function settleAfterGo(
  context: SourceContext,
  connection: SourceConnection,
  error: unknown,
): Promise<Settled> {
  const { options, session, setState } = context;
  const reason = await connection.cause(error);
  if (!mayRetry(reason, 'after-go') || options.settleTimeoutMs === 0) throw reason;
  session.reportLost(connection, reason);
  setState('settling');
  return settle(context, options.settleTimeoutMs);
}

/**
 * Asks the destination over new connections, for at most `withinMs`, whether it runs the guest, and sends `go` again if the destination
 * still waits for it. Resolves when the guest runs there; the connection of that answer is then the current one. Rejects with the reason
 * why this is not known, or with a contradicting answer of the destination.
 *
 * The guest is never resumed at the source here, whatever the answer: docs/switchover.md.
 */
export async function settle(
  context: SourceContext,
  withinMs = context.options.settleTimeoutMs || SETTLE_MS,
): Promise<Settled> {
  const { session, options, ownership, settling, byPostcopy, vm } = context;
  const { clock, random } = options;
  const { signal } = settling;
  try {
    const handed = await keepTrying(
      async (window) => {
        const missing = new DirtyBitmaps(vm.memory);
        const named = byPostcopy ? missingInto(vm.memory, missing) : undefined;
        const { connection, answer } = await session.ask('handedOver', window, named);
        if (answer.type !== 'resumed' || answer.state === 'receiving' || answer.state === 'loading') {
          throw new GodwitError(
            'GODWIT_PROTOCOL',
            `the destination had said "ready", but now it says "${answer.type === 'resumed' ? answer.state : answer.type}"`,
          );
        }
        const { resumeMs, sinceReadyMs } = answer;
        if (answer.state === 'running') return { resumeMs, sinceReadyMs, heardAt: clock.now(), incomplete: false };
        if (answer.state === 'incomplete' && !byPostcopy) {
          throw new GodwitError(
            'GODWIT_PROTOCOL',
            'the destination says that pages are missing of a guest of which it has acknowledged every page',
          );
        }
        if (byPostcopy) owe(context, connection, answer, missing);
        if (answer.state === 'incomplete') return { resumeMs, sinceReadyMs, heardAt: clock.now(), incomplete: true };
        // After the embedder has declared the destination dead (`recover`), `go` must not be sent.
        signal.throwIfAborted();
        const handed = await abortable(sendGo(connection, options, session.attempt), signal).catch(
          async (error: unknown) => {
            signal.throwIfAborted();
            throw await connection.cause(error);
          },
        );
        return { ...handed, incomplete: byPostcopy };
      },
      { clock, random, withinMs, signal, stage: 'after-go' },
    );
    if (!handed.incomplete) ownership.apply('running');
    return handed;
  } catch (error) {
    if (signal.aborted || !mayRetry(error, 'after-go')) throw error;
    const { message } = error as GodwitError;
    throw new GodwitError(
      'GODWIT_LINK_LOST',
      `it could not be asked again within settleTimeoutMs (${withinMs} ms); the last attempt: ${message}`,
      { cause: error },
    );
  }
}

/** Notes the pages that the destination names as missing before its answer. */
export function missingInto(memory: GuestMemory, missing: DirtyBitmaps): (frame: NamedBefore) => void {
  return (frame) => {
    if (frame.type === 'missing') addNamedPages(memory, frame, missing);
  };
}

/**
 * Makes exactly the pages owed that the destination lacks, and goes on with the destination's round. Returns false for an answer whose
 * state names no missing pages. Throws `GODWIT_PROTOCOL` for an impossible round.
 */
export function owe(
  { queue, rounds }: SourceContext,
  connection: SourceConnection,
  { state, round }: ResumedFrame,
  missing: DirtyBitmaps,
): boolean {
  if (state === 'receiving' || state === 'running') return false;
  rounds.checkRound(round);
  queue.clear();
  queue.owe(missing);
  rounds.goOn(connection, round);
  return true;
}

/**
 * The error for a person, who has to decide which side runs the guest. `transferred`: the authority has granted the transfer, so that `go`
 * was sent.
 */
export function ownershipUnknown(reason: GodwitError, transferred: boolean, missingPages = 0): GodwitError {
  if (missingPages > 0) {
    return new GodwitError(
      'GODWIT_OWNERSHIP_UNKNOWN',
      `the guest runs at the destination, which lacked ${missingPages} of its pages when it was last heard of (${reason.message}). They are ` +
        'only here, where the guest stays paused: keep this process. settle() connects again and sends them; if the destination is dead for ' +
        'certain, recover({ destinationIsDead: true }) runs the guest here as it was when it was paused',
      { cause: reason },
    );
  }
  const when = transferred
    ? `after "go" was sent (${reason.message}): the destination may be running the guest`
    : `before "go" was sent, but the ownership authority may have granted the transfer (${reason.message})`;
  return new GodwitError(
    'GODWIT_OWNERSHIP_UNKNOWN',
    `the migration failed ${when}. The guest stays paused here. ` +
      'settle() asks the destination again; recover({ destinationIsDead: true }) runs the guest here, only after making ' +
      'sure that the destination does not and never will',
    { cause: reason },
  );
}
