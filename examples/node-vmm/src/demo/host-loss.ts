import type { HostName } from './demo-event.js';

/** The controller's knowledge when a host process ended unexpectedly. */
export interface LossMoment {
  /** The host whose process has ended, and how: `source: the process (pid 4711) ended with SIGKILL`. */
  readonly host: HostName;
  readonly how: string;
  /** The host at which the guest ran, as far as the controller knew. */
  readonly guestAt: HostName;
  /** `between`: it could run at either. `following`: it runs at its destination, and pages are missing there (post-copy). */
  readonly course: 'before' | 'moving' | 'between' | 'following' | 'after';
  /** Whether further migrations were planned. */
  readonly isNeeded: boolean;
}

/** The meaning of the loss, in one sentence, and whether the run can go on without that host. */
export function lossOf({ host, how, guestAt, course, isNeeded }: LossMoment): {
  readonly message: string;
  readonly goesOn: boolean;
} {
  const ended = (what: string) => ({ message: `${how}; ${what}`, goesOn: false });
  if (course === 'between') return ended('the guest was just changing hands');
  if (course === 'following') {
    return host === guestAt
      ? ended('the guest ran there, and is gone with it; the other host has it only as it was when it left')
      : ended(
          `the guest runs at the ${guestAt}, and pages of it were only there: it stands where it needs one, and is lost`,
        );
  }
  if (host === guestAt) return ended('the guest ran there, and is gone with it');
  if (course === 'moving') return ended(`the guest was on its way there, and runs on at the ${guestAt}`);
  if (isNeeded) return ended(`the guest cannot move there any more, and runs on at the ${guestAt}`);
  return { message: `${how}; the guest had left it before, and runs on at the ${guestAt}`, goesOn: true };
}
