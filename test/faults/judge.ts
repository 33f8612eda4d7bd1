import { GodwitError } from '@godwit/core';
import type { VirtualMachine } from '@godwit/example-node-vmm';
import type { LiveGuest } from '../guest/live-guest.js';

/** How the promise of one side settled; `undefined` if it did not. */
export type Outcome<T> = PromiseSettledResult<T> | undefined;

/** The events of one side. */
export interface Course {
  /** Every state that the side was in. */
  readonly states: ReadonlySet<string>;
  /** How often the migration has gone back so far. */
  readonly wentBack: () => number;
}

/** Returns the ending of a case: which side has the guest. Adds to `problems` if it is not exactly one, or a side reports otherwise. */
export async function judge(
  guest: LiveGuest,
  source: VirtualMachine,
  here: Outcome<unknown>,
  there: Outcome<{ readonly vm: unknown }>,
  seen: Course & { readonly backs: number; readonly problems: string[] },
): Promise<string> {
  const { problems, states, backs } = seen;
  const wentBack = seen.wentBack();
  const relinked = states.has('postcopy-recover')
    ? ', recovered'
    : states.has('settling')
      ? ', settled'
      : states.has('reconnecting')
        ? ', reconnected'
        : '';
  const again = `${relinked}${wentBack > 0 ? ', went back' : ''}`;
  if (there?.status === 'fulfilled') {
    const machine = there.value.vm as VirtualMachine;
    if (machine.state === 'running' && source.state === 'running') problems.push('BOTH SIDES RUN THE GUEST');
    if (here?.status !== 'fulfilled') problems.push(`the destination runs the guest, the source says ${reason(here)}`);
    if (wentBack < backs) problems.push(`it went back ${wentBack} times, not ${backs}`);
    await guest.moved(machine);
    return `moved${again}`;
  }
  if (here?.status === 'fulfilled') {
    problems.push(`the source says that it is done, the destination ${reason(there)}`);
    return 'lost';
  }
  if (source.state !== 'running') problems.push(`nobody runs the guest: ${reason(here)}`);
  // A peer that never answers counts as an unreachable one: the migration may end.
  const stalled = !states.has('active') && here !== undefined && codeOf(here.reason) === 'GODWIT_TIMEOUT';
  if (isLink(here) && !stalled) problems.push(`a link that was lost once ended the migration: ${reason(here)}`);
  if (there !== undefined && here !== undefined && !knows(here, there)) {
    problems.push(`the source says ${reason(here)}; the destination does not know: ${reason(there)}`);
  }
  return `stayed: ${here === undefined ? '?' : codeOf(here.reason)}${again}`;
}

/** Whether the destination's error fits the source's: the codes are equal, or one of them is that of a lost link. */
function knows(here: PromiseRejectedResult, there: PromiseRejectedResult): boolean {
  const [source, destination] = [codeOf(here.reason), codeOf(there.reason)];
  return source === destination || isLink(here) || isLink(there);
}

function isLink(outcome: Outcome<unknown>): boolean {
  if (outcome?.status !== 'rejected') return false;
  return ['GODWIT_LINK_LOST', 'GODWIT_TIMEOUT', 'GODWIT_CONNECT_FAILED'].includes(codeOf(outcome.reason));
}

function codeOf(error: unknown): string {
  return GodwitError.is(error) ? error.code : `not a GodwitError: ${String(error)}`;
}

function reason(outcome: Outcome<unknown>): string {
  if (outcome === undefined) return 'nothing';
  if (outcome.status === 'fulfilled') return 'that all is well';
  return GodwitError.is(outcome.reason) ? `${outcome.reason.code}: ${outcome.reason.message}` : String(outcome.reason);
}
