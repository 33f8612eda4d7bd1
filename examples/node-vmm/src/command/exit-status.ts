import { type ErrorCode, GodwitError } from '@godwit/core';
import { ControlError } from '../control/control-error.js';
import type { Whereabouts } from '../vmm/departure.js';

/** The exit statuses of `npm run vmm --`; docs/node-vmm.md has them for people, and a test compares the two. */
export const EXIT = {
  /** The command has succeeded: the guest has moved, the snapshot is whole, or the VMM was told to end. */
  done: 0,
  /** Any other failure: a defect, or an error of the system. */
  failed: 1,
  /** The command line is wrong, or names something that cannot be used. */
  usage: 2,
  /** No VMM answers at the control socket, or the VMM has ended before it answered. */
  noVmm: 3,
  /** The command may succeed later: the link could not be made or was lost, or the guest is already being moved. */
  retry: 4,
  /** The destination, the VMM's state or the host refuses the command, and always will. */
  refused: 5,
  /** The guest writes too fast for the link and the limits. */
  notConverging: 6,
  cancelled: 7,
  /** The guest is paused at the source, and may run at the destination. */
  unknown: 8,
  /** The guest has crashed, ended, or is incomplete. */
  ended: 9,
} as const;

const BY_CODE: Partial<Readonly<Record<ErrorCode, number>>> = {
  GODWIT_OWNERSHIP_UNKNOWN: EXIT.unknown,
  GODWIT_GUEST_CRASHED: EXIT.ended,
  GODWIT_GUEST_ENDED: EXIT.ended,
  GODWIT_PAGES_MISSING: EXIT.ended,
  GODWIT_CANCELLED: EXIT.cancelled,
  GODWIT_NOT_CONVERGING: EXIT.notConverging,
  GODWIT_ESTIMATE_EXCEEDED: EXIT.notConverging,
  GODWIT_INVALID_ARGUMENT: EXIT.usage,
  GODWIT_INTERNAL: EXIT.failed,
};

/**
 * The exit status for an error: by the place of the guest, then by the error's code, then by whether another attempt may
 * succeed.
 */
export function exitStatusOf(error: unknown): number {
  if (error instanceof ControlError && !error.answered) return EXIT.noVmm;
  if (!(error instanceof ControlError) && !GodwitError.is(error)) return EXIT.failed;
  const guest = error instanceof ControlError ? error.guest : undefined;
  if (guest === 'unknown') return EXIT.unknown;
  if (guest === 'ended') return EXIT.ended;
  return BY_CODE[error.code] ?? (error.retry ? EXIT.retry : EXIT.refused);
}

/** The place of the guest, for the end of a message. */
export function whereaboutsText(guest: Whereabouts | undefined): string {
  switch (guest) {
    case 'here':
      return 'the guest stays at the source, as it was';
    case 'there':
      return 'the guest is at the destination';
    case 'unknown':
      return 'the guest is paused at the source, and may run at the destination: settle, or recover --peer-is-dead';
    case 'ended':
      return 'the guest has ended';
    case undefined:
      return '';
  }
}
