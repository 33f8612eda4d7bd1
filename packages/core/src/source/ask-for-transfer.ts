import { GodwitError } from '../errors.js';
import { inTime } from '../in-time.js';
import type { Transfer } from '../ownership/ownership-authority.js';
import type { SourceContext } from './source-context.js';

/**
 * Asks the ownership authority to transfer the guest to the destination. Resolves with `undefined` when the transfer is granted,
 * and with the reason when it is refused or withdrawn for good; the source may then resume the guest. Rejects with
 * `GODWIT_INTERNAL` when neither is known: the destination may own the guest.
 */
export async function askForTransfer(context: SourceContext): Promise<GodwitError | undefined> {
  const { options, ownership, emit } = context;
  const { clock, authority, switchoverTimeoutMs } = options;
  const transfer = transferOf(context);
  const late = () =>
    new GodwitError('GODWIT_TIMEOUT', `the ownership authority has not answered within ${switchoverTimeoutMs} ms`);
  try {
    const answer = await inTime(authority.transfer(transfer), clock, switchoverTimeoutMs, late);
    if (answer === 'granted') return undefined;
    if (answer !== 'refused') throw notAnAnswer('transfer', answer);
    ownership.apply('refused');
    return refused('the ownership authority has refused the transfer of the guest');
  } catch (error) {
    const reason = GodwitError.wrap(error, 'GODWIT_INTERNAL', 'asking the ownership authority for the transfer failed');
    emit({ type: 'warning', code: reason.code, message: `${reason.message}; it is asked to withdraw it` });
    let withdrawn: 'withdrawn' | 'granted';
    try {
      withdrawn = await inTime(authority.withdraw(transfer), clock, switchoverTimeoutMs, late);
    } catch (failure) {
      throw unknownTransfer(reason, failure);
    }
    if (withdrawn === 'granted') return undefined;
    if (withdrawn !== 'withdrawn') throw unknownTransfer(reason, notAnAnswer('withdraw', withdrawn));
    ownership.apply('refused');
    return refused(`the transfer of the guest was withdrawn (${reason.message})`);
  }
}

/** The error for an answer that the contract does not define, which an authority written in JavaScript may give. */
function notAnAnswer(call: 'transfer' | 'withdraw', answer: never): Error {
  return new Error(
    `${call}() of the ownership authority has answered ${String(answer)}, which is not one of its answers`,
  );
}

export function transferOf({ options, session, rounds }: SourceContext): Transfer {
  return { migrationId: options.migrationId, attempt: session.attempt, incarnation: rounds.welcome.incarnation };
}

/** A refusal counts as an overrun, so that an authority which always refuses ends the migration after `PATIENCE` attempts. */
function refused(message: string): GodwitError {
  return new GodwitError('GODWIT_SWITCHOVER_OVERRAN', `${message}; the guest runs on at the source`);
}

function unknownTransfer(reason: GodwitError, failure: unknown): GodwitError {
  return new GodwitError(
    'GODWIT_INTERNAL',
    `whether the guest is the destination's is not known: ${reason.message}; and it could not be withdrawn: ` +
      `${failure instanceof Error ? failure.message : String(failure)}`,
    { cause: reason },
  );
}
