import { abortable } from '../abortable.js';
import { GodwitError } from '../errors.js';
import { inTime } from '../in-time.js';
import type { ControlChannel } from '../link/control-channel.js';
import type { ResolvedOptions } from './options.js';
import { isPassing, keepTrying } from './reconnect.js';
import type { SourceLinks } from './source-links.js';
import type { HandedOver } from './switchover.js';

/** Says `go`, in this tick, and waits for `running`, at most `switchoverTimeoutMs`. */
export function sayGo(control: ControlChannel, { clock, switchoverTimeoutMs }: ResolvedOptions): Promise<HandedOver> {
  return inTime(
    control.ask({ type: 'go', attempt: 1 }, 'running'),
    clock,
    switchoverTimeoutMs,
    () =>
      new GodwitError(
        'GODWIT_TIMEOUT',
        `the destination did not answer "running" within switchoverTimeoutMs (${switchoverTimeoutMs} ms)`,
      ),
  );
}

/**
 * After `go`, without an answer: asks the destination over new links, for at most `withinMs`, whether it runs the
 * guest, and says `go` again where it still waits for that. Resolves when the guest runs there; the link on which it said
 * so is then the current one. Rejects with why that could not be found out, or with what the destination says instead.
 *
 * It never resumes the guest here, whatever it hears: docs/switchover.md.
 */
export async function settle(
  links: SourceLinks,
  options: ResolvedOptions,
  withinMs: number,
  signal: AbortSignal,
): Promise<HandedOver> {
  const { clock, random } = options;
  try {
    return await keepTrying(
      async (attempt) => {
        const { connection, answer } = await links.ask('handedOver', attempt);
        if (answer.type !== 'resumed' || answer.state === 'receiving') {
          throw new GodwitError(
            'GODWIT_PROTOCOL',
            `the destination had said "ready", but now it says "${answer.type === 'resumed' ? answer.state : answer.type}"`,
          );
        }
        if (answer.state === 'running') return { resumeMs: 0 };
        // Declared dead meanwhile: from then on `go` is not said, and no answer is waited for.
        signal.throwIfAborted();
        return await abortable(sayGo(connection.control, options), signal).catch(async (error: unknown) => {
          signal.throwIfAborted();
          throw await connection.reasonFor(GodwitError.wrap(error, 'GODWIT_INTERNAL', 'saying "go" failed'));
        });
      },
      { clock, random, withinMs, signal },
    );
  } catch (error) {
    if (signal.aborted || !isPassing(error)) throw error;
    const { message } = error as GodwitError;
    throw new GodwitError(
      'GODWIT_LINK_LOST',
      `it could not be asked again within settleTimeoutMs (${withinMs} ms); the last attempt: ${message}`,
      { cause: error },
    );
  }
}

/** What nobody but a person can decide, in words for that person. */
export function ownershipUnknown(reason: GodwitError): GodwitError {
  return new GodwitError(
    'GODWIT_OWNERSHIP_UNKNOWN',
    `the migration failed after "go" was sent (${reason.message}): the destination may be running the guest. It stays paused here. ` +
      'settle() asks the destination again; recover({ destinationIsDead: true }) runs the guest here, only after making ' +
      'sure that the destination does not and never will',
    { cause: reason },
  );
}
