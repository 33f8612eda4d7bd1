import { abortable } from '../abortable.js';
import { GodwitError } from '../errors.js';
import { inTime } from '../in-time.js';
import type { ReadyFrame, SwitchoverFrame } from '../protocol/frame.js';
import { keepTrying } from '../session/retry.js';
import type { PauseBound } from './pause-bound.js';
import type { SourceConnection } from './source-connection.js';
import type { SourceContext } from './source-context.js';
import type { Greeted } from './source-session.js';

/** Says `switchover`, and resolves with `ready`. */
export async function askToLoad(
  { options }: SourceContext,
  bound: PauseBound,
  connection: SourceConnection,
  switchover: Omit<SwitchoverFrame, 'type'>,
): Promise<ReadyFrame> {
  const { clock, switchoverTimeoutMs } = options;
  const ready = connection.expect('ready');
  await connection.write({ type: 'switchover', ...switchover });
  // Bytes in our own buffers are not the destination's time: it begins when the destination has read everything.
  await Promise.race([connection.ping(), ready]);
  const over = abortable(ready, connection.signal, bound.signal);
  return inTime(over, clock, switchoverTimeoutMs, () => silent(switchoverTimeoutMs));
}

/**
 * The link was lost after `switchover` was written: asks over another one, while the bound allows it, whether the destination has
 * everything. Rejects with the lost link when it does not: then the attempt is given up.
 */
export async function continuePaused(
  { session, options, rounds, emit, setState, state }: SourceContext,
  bound: PauseBound,
  lost: SourceConnection,
  error: unknown,
): Promise<{ readonly connection: SourceConnection; readonly ready: Promise<ReadyFrame> }> {
  const { clock, random, reconnectTimeoutMs } = options;
  const reason = GodwitError.wrap(error, 'GODWIT_LINK_LOST', 'the link was lost');
  if (reconnectTimeoutMs === 0) throw reason;
  const since = clock.now();
  const before = state();
  emit({ type: 'link-lost', reason });
  setState('reconnecting');
  await lost.drop(reason);
  const withinMs = bound.limitMs === 0 ? reconnectTimeoutMs : bound.limitMs;
  const { connection, answer } = await keepTrying<Greeted>((window) => session.again('paused', window), {
    clock,
    random,
    withinMs,
    signal: bound.signal,
    stage: 'greeting',
  }).catch((cause: unknown) => {
    session.signal.throwIfAborted();
    // A destination that was restarted knows nothing: it gets everything anew, with the guest running.
    const final = GodwitError.is(cause) && cause.remote && cause.code !== 'GODWIT_UNKNOWN_MIGRATION';
    throw final ? cause : reason;
  });
  session.signal.throwIfAborted();
  rounds.adopt(connection);
  setState(before);
  emit({
    type: 'reconnected',
    connection: connection.request.connection,
    downMs: clock.now() - since,
    restarted: answer.type === 'welcome',
  });
  if (answer.type === 'resumed' && answer.state === 'ready') {
    return { connection, ready: Promise.resolve({ type: 'ready', attempt: session.attempt, loadMs: 0 }) };
  }
  if (connection.ready !== undefined) return { connection, ready: connection.ready };
  // The destination has not got everything, or is another one.
  await connection.drop(reason);
  throw reason;
}

function silent(timeoutMs: number): GodwitError {
  return new GodwitError(
    'GODWIT_TIMEOUT',
    `the destination did not answer "ready" within switchoverTimeoutMs (${timeoutMs} ms) while the guest is paused`,
  );
}
