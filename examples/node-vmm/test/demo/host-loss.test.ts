import { expect, test } from '@jest/globals';
import { lossOf } from '../../dist/demo/host-loss.js';

const source = { host: 'source', how: 'source: the process (pid 1) ended with SIGKILL' } as const;
const destination = { host: 'destination', how: 'destination: the process (pid 2) ended with SIGKILL' } as const;

test.each([
  [{ ...destination, guestAt: 'source', course: 'booting', isNeeded: true }, 'there was no guest yet', false],
  [
    { ...source, guestAt: 'source', course: 'before', isNeeded: true },
    'the guest ran there, and is gone with it',
    false,
  ],
  [
    { ...source, guestAt: 'source', course: 'moving', isNeeded: true },
    'the guest ran there, and is gone with it',
    false,
  ],
  [{ ...source, guestAt: 'source', course: 'between', isNeeded: true }, 'the guest was just changing hands', false],
  [
    { ...source, guestAt: 'destination', course: 'after', isNeeded: false },
    'the guest had left it before, and runs on at the destination',
    true,
  ],
  [
    { ...source, guestAt: 'destination', course: 'before', isNeeded: true },
    'the guest cannot move there any more, and runs on at the destination',
    false,
  ],
  [
    { ...destination, guestAt: 'source', course: 'moving', isNeeded: true },
    'the guest was on its way there, and runs on at the source',
    false,
  ],
  [
    { ...destination, guestAt: 'source', course: 'between', isNeeded: true },
    'the guest was just changing hands',
    false,
  ],
  [
    { ...destination, guestAt: 'destination', course: 'after', isNeeded: false },
    'the guest ran there, and is gone with it',
    false,
  ],
  [
    { ...source, guestAt: 'destination', course: 'following', isNeeded: false },
    'the guest runs at the destination, and pages of it were only there: it stands where it needs one, and is lost',
    false,
  ],
  [
    { ...destination, guestAt: 'destination', course: 'following', isNeeded: false },
    'the guest ran there, and is gone with it; the other host has it only as it was when it left',
    false,
  ],
] as const)('%j', (moment, what, goesOn) => {
  expect(lossOf(moment)).toEqual({ message: `${moment.how}; ${what}`, goesOn });
});
