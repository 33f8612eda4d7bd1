import type { MemoryWindows } from '../memory/memory-windows.js';
import type { WelcomeFrame } from '../protocol/frame.js';
import { FEATURES } from '../protocol/negotiate.js';
import type { Arriving, DestinationContext } from './destination-context.js';
import type { IncomingConnection } from './incoming-connection.js';
import { tellLoaded } from './loaded-reports.js';
import { RamCheck } from './ram-check.js';

/** Makes the comparison of RAM for one attempt. It stops once the connection is lost or the migration is over. */
export function ramCheck(
  { options, session }: DestinationContext,
  windows: MemoryWindows,
  { features }: WelcomeFrame,
): RamCheck {
  const isOver = () => session.current?.signal.aborted ?? true;
  return new RamCheck(windows, options.clock, features.includes(FEATURES.verify), isOver);
}

/** Goes back to receiving, in this tick: the source has given up its attempt and runs the guest, so everything of the attempt is void. */
export function goBackTo(context: DestinationContext, arriving: Arriving, attempt: number): void {
  const { ownership, emit } = context;
  const { loader, receiver, windows, welcome } = arriving;
  const givenUp = arriving.attempt;
  arriving.attempt = attempt;
  if (ownership.state === 'ready') ownership.apply('back');
  receiver?.unseal();
  receiver?.board.endMissing();
  arriving.named = undefined;
  const { missing, servingMissing } = context;
  context.missing = undefined;
  // A service that is still being set up gives up the pages when it is ready, and undoes itself then: no page may come before that.
  context.undoing = servingMissing.then(() => missing?.undo());
  arriving.check = ramCheck(context, windows, welcome);
  loader.goBack(attempt - 1);
  emit({ type: 'went-back', attempt: givenUp });
}

/** Sends `backAck`: the attempt is void here, and the source may send pages and pieces of the next one. */
export async function acknowledgeBack(
  connection: IncomingConnection,
  { loader }: Arriving,
  attempt: number,
): Promise<void> {
  await connection.write({ type: 'backAck', attempt, deviceResets: loader.resets });
  await tellLoaded(connection, loader);
}
