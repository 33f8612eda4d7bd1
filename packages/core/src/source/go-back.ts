import { GodwitError } from '../errors.js';
import { inTime, settledWithin } from '../in-time.js';
import { DirtyBitmaps } from '../memory/dirty-bitmaps.js';
import { FEATURES } from '../protocol/negotiate.js';
import type { Harvest } from './harvester.js';
import type { PauseBound } from './pause-bound.js';
import type { SourceConnection } from './source-connection.js';
import type { GivenUp, SourceContext } from './source-context.js';

/** How long a device that is still saving may take to stop before the guest runs again. Milliseconds. */
const SAVE_ENDS_MS = 20;

/**
 * Gives up a stop-and-copy; the guest is resumed first. Going back and asking for the transfer are both synchronous transitions of the
 * ownership out of `paused`, so only one of the two can happen. Rejects with `GODWIT_VM_FAILED` when the guest cannot be resumed.
 */
export async function goBack(context: SourceContext, bound: PauseBound, reason: GodwitError): Promise<GivenUp> {
  const { session, ownership, devices, attempts, model, throttle, options, emit, state, setState } = context;
  const { clock } = options;
  const { attempt } = session;
  ownership.apply('back');
  session.attempt++;
  const { name: term, ms } = bound.term;
  const pausedMs = bound.elapsedMs;
  const { limitMs } = bound;
  bound.giveUp(reason);
  bound.hold();
  await settledWithin(devices.calls.idle(), clock, SAVE_ENDS_MS);
  if (!(await resumed(context, reason))) {
    emit({
      type: 'warning',
      code: 'GODWIT_VM_FAILED',
      message: 'pause() has not returned: the guest is resumed as soon as it does, and no other attempt is made before',
    });
  }
  throttle.refresh();
  attempts.wentBack({ attempt, term, pausedMs, reason });
  if (reason.code === 'GODWIT_SWITCHOVER_OVERRAN' && term !== 'ramMs') model.overran(term, ms);
  emit({ type: 'went-back', attempt, term, elapsedMs: pausedMs, limitMs, reason });
  if (state() !== 'active') setState('active');
  return { attempt };
}

async function resumed({ guest, options }: SourceContext, reason: GodwitError): Promise<boolean> {
  try {
    return await guest.resume(options.clock);
  } catch (error) {
    throw new GodwitError(
      'GODWIT_VM_FAILED',
      `a switchover was given up (${reason.message}) and then the guest could not be resumed at the source: ${String(error)}`,
      { cause: error },
    );
  }
}

/**
 * Settles a stop-and-copy that was given up with the destination, while the guest runs: afterwards no page and no piece of the attempt
 * can arrive, what the destination has of the attempt is void, and the queue owes every page that the destination lacks. Resolves with a
 * harvest.
 */
export async function settleGivenUp(context: SourceContext, { attempt }: GivenUp): Promise<Harvest> {
  const { session, rounds, harvester, meter, options } = context;
  const before = session.current;
  if (context.byPostcopy) await closeToRequests(context, before);
  if (before !== undefined && !before.signal.aborted) session.phase = 'going-back';
  let connection = await rounds.settleAbandoned();
  if (connection === before) {
    try {
      await sendBack(context, connection, attempt);
    } catch (error) {
      await connection.drop(await rounds.lost(connection, error));
      // The hello of the next connection has the stage `running` and the next attempt, which tells the destination that the attempt was
      // given up.
      connection = await rounds.connected();
    }
  }
  const start = options.clock.now();
  const harvest = await harvester.harvest(session.signal);
  meter.harvested(harvest.dirtyPages);
  return { ...harvest, harvestMs: options.clock.now() - start };
}

/**
 * Ends the answers after a switchover by post-copy was given up. Answers in flight will be outdated, so their connection is dropped, and
 * the pages that they took are owed again.
 */
async function closeToRequests(context: SourceContext, connection: SourceConnection | undefined): Promise<void> {
  const { postcopy, queue, vm } = context;
  context.byPostcopy = false;
  if (postcopy !== undefined) Atomics.store(postcopy.open, 0, 0);
  await connection?.drop(new GodwitError('GODWIT_LINK_LOST', 'a switchover by post-copy was given up'));
  queue.restore(new DirtyBitmaps(vm.memory));
}

async function sendBack(
  { session, rounds, devices, options }: SourceContext,
  connection: SourceConnection,
  attempt: number,
): Promise<void> {
  const { clock, handshakeTimeoutMs } = options;
  if (!rounds.welcome.features.includes(FEATURES.back)) return;
  const asking = connection.ask({ type: 'back', attempt }, 'backAck');
  const ack = await inTime(asking, clock, handshakeTimeoutMs, () => notAcknowledged(handshakeTimeoutMs));
  if (ack.attempt !== attempt) {
    throw new GodwitError(
      'GODWIT_PROTOCOL',
      `"backAck" is for attempt ${ack.attempt}; attempt ${attempt} was given up`,
    );
  }
  connection.forget('ready', 'verified');
  session.phase = 'pre-copy';
  await devices.restartReset(ack.deviceResets);
}

function notAcknowledged(handshakeTimeoutMs: number): GodwitError {
  return new GodwitError(
    'GODWIT_LINK_LOST',
    `the destination has not acknowledged that a switchover was given up within handshakeTimeoutMs (${handshakeTimeoutMs} ms): the link counts as lost`,
  );
}
