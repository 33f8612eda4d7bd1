import { type ErrorCode, GodwitError } from '@godwit/core';
import { expect, test } from '@jest/globals';
import { EXIT, exitStatusOf, whereaboutsText } from '../../dist/command/exit-status.js';
import { ControlError } from '../../dist/control/control-error.js';
import type { Whereabouts } from '../../dist/vmm/departure.js';

const answered = (code: ErrorCode, { retry = false, guest }: { retry?: boolean; guest?: Whereabouts } = {}) =>
  new ControlError({ code, message: 'x', retry, ...(guest && { guest }) }, { answered: true });

test.each([
  [EXIT.noVmm, new ControlError({ code: 'GODWIT_LINK_LOST', message: 'x', retry: true }, { answered: false })],
  [EXIT.retry, answered('GODWIT_LINK_LOST', { retry: true, guest: 'here' })],
  [EXIT.refused, answered('GODWIT_CONNECT_FAILED', { guest: 'here' })],
  [EXIT.refused, answered('GODWIT_MEMORY_MISMATCH', { guest: 'here' })],
  [EXIT.notConverging, answered('GODWIT_NOT_CONVERGING', { guest: 'here' })],
  [EXIT.cancelled, answered('GODWIT_CANCELLED', { guest: 'here' })],
  [EXIT.usage, answered('GODWIT_INVALID_ARGUMENT')],
  [EXIT.unknown, answered('GODWIT_OWNERSHIP_UNKNOWN', { guest: 'unknown' })],
  // Where the guest is counts for more than the code.
  [EXIT.unknown, answered('GODWIT_CANCELLED', { guest: 'unknown' })],
  [EXIT.ended, answered('GODWIT_LINK_LOST', { retry: true, guest: 'ended' })],
  [EXIT.ended, new GodwitError('GODWIT_GUEST_CRASHED', 'x')],
  [EXIT.ended, new GodwitError('GODWIT_PAGES_MISSING', 'x')],
  [EXIT.retry, new GodwitError('GODWIT_TIMEOUT', 'x')],
  [EXIT.failed, new GodwitError('GODWIT_INTERNAL', 'x')],
  [EXIT.failed, new Error('ENOSPC')],
])('is %d for %p', (status, error) => {
  expect(exitStatusOf(error)).toBe(status);
});

test('whereaboutsText says where the guest is', () => {
  expect(whereaboutsText('here')).toContain('stays at the source');
  expect(whereaboutsText('unknown')).toContain('may run at the destination');
  expect(whereaboutsText(undefined)).toBe('');
});
