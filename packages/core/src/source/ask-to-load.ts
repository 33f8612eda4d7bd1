import { abortable } from '../abortable.js';
import { GodwitError } from '../errors.js';
import { inTime } from '../in-time.js';
import { DirtyBitmaps } from '../memory/dirty-bitmaps.js';
import type { ReadyFrame, SwitchoverFrame } from '../protocol/frame.js';
import { keepTrying } from '../session/retry.js';
import type { DeviceSender } from './device-sender.js';
import type { PauseBound } from './pause-bound.js';
import { missingInto, owe } from './settlement.js';
import type { SourceConnection } from './source-connection.js';
import type { SourceContext } from './source-context.js';
import type { Greeted } from './source-session.js';

/** The destination has read `switchover`, over this connection or an earlier one, and `ready` is awaited. */
export interface AskedToLoad {
  readonly connection: SourceConnection;
  readonly ready: Promise<ReadyFrame>;
}

/**
 * Sends `switchover`. Resolves when the destination has read everything that was sent before it: the time that bytes spend in this
 * side's buffers does not count as loading.
 */
export async function askToLoad(
  connection: SourceConnection,
  switchover: Omit<SwitchoverFrame, 'type' | 'deviceSequences'>,
  devices: DeviceSender,
): Promise<AskedToLoad> {
  const ready = connection.expect('ready');
  const onChannels = connection.deviceChannels !== undefined;
  // The pieces may come later than `switchover`; the destination answers when the pieces are there.
  const arrived = onChannels ? connection.arrived(switchover.attempt, devices.attemptCounts) : undefined;
  arrived?.catch(() => {});
  const sent = onChannels ? { deviceSequences: devices.sequences } : {};
  await connection.write({ type: 'switchover', ...switchover, ...sent });
  await Promise.race([arrived ?? connection.ping(), ready]);
  return { connection, ready };
}

/** Resolves with `ready`. Without a bound on the pause, it rejects with `GODWIT_TIMEOUT` after `switchoverTimeoutMs`. */
export function untilReady(
  { options }: SourceContext,
  bound: PauseBound,
  { connection, ready }: AskedToLoad,
): Promise<ReadyFrame> {
  const waiting = abortable(ready, connection.signal, bound.signal);
  if (bound.limitMs > 0) return waiting;
  const { clock, switchoverTimeoutMs } = options;
  return inTime(waiting, clock, switchoverTimeoutMs, () => silent(switchoverTimeoutMs));
}

/**
 * Reconnects after the link was lost with `switchover` written, within the bound, and asks whether the destination has everything.
 * Rejects with the error of the lost link when the destination lacks something; the attempt is then given up.
 */
export async function continuePaused(
  context: SourceContext,
  bound: PauseBound,
  lost: SourceConnection,
  error: unknown,
): Promise<AskedToLoad> {
  const { session, options, rounds, emit, setState, state, byPostcopy, vm } = context;
  const { clock, random, reconnectTimeoutMs } = options;
  const reason = GodwitError.wrap(error, 'GODWIT_LINK_LOST', 'the link was lost');
  if (reconnectTimeoutMs === 0) throw reason;
  const before = state();
  const lostAt = session.reportLost(lost, reason);
  setState('reconnecting');
  await lost.drop(reason);
  const withinMs = bound.limitMs === 0 ? reconnectTimeoutMs : bound.limitMs;
  let missing = new DirtyBitmaps(vm.memory);
  const connect = (window: AbortSignal): Promise<Greeted> => {
    missing = new DirtyBitmaps(vm.memory);
    return session.again('paused', window, byPostcopy ? missingInto(vm.memory, missing) : undefined);
  };
  const limits = { clock, random, withinMs, signal: bound.signal, stage: 'greeting' as const };
  const { connection, answer } = await keepTrying(connect, limits).catch((cause: unknown) => {
    session.signal.throwIfAborted();
    // A destination that was restarted has lost everything: pre-copy sends everything again, with the guest running.
    const final = GodwitError.is(cause) && cause.remote && cause.code !== 'GODWIT_UNKNOWN_MIGRATION';
    throw final ? cause : reason;
  });
  session.signal.throwIfAborted();
  // Answers of the urgent channel that were on their way are lost.
  const named = byPostcopy && answer.type === 'resumed' && owe(context, connection, answer, missing);
  if (!named) rounds.adopt(connection);
  const isReady = answer.type === 'resumed' && answer.state === 'ready';
  const ready = isReady ? Promise.resolve(loaded(session.attempt)) : connection.ready;
  if (ready === undefined) {
    // The destination lacks a part of what was sent, or was restarted: pre-copy goes on over yet another connection.
    await session.dropUnused(connection, lostAt, reason);
    throw reason;
  }
  setState(before);
  emit({
    type: 'reconnected',
    connection: connection.request.connection,
    downMs: clock.now() - lostAt,
    restarted: false,
  });
  return { connection, ready };
}

/** The `ready` that was lost with its link. */
function loaded(attempt: number): ReadyFrame {
  return { type: 'ready', attempt, loadMs: 0 };
}

/** The error for a destination that has not answered `ready`. */
function silent(timeoutMs: number): GodwitError {
  return new GodwitError(
    'GODWIT_TIMEOUT',
    `the destination did not answer "ready" within switchoverTimeoutMs (${timeoutMs} ms) while the guest is paused`,
  );
}
