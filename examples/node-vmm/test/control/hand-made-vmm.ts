import { GodwitError, type MigrationEvent } from '@godwit/core';
import type { ControlHandlers } from '../../dist/control/control-server.js';

/** Handlers that do nothing by themselves, of which a test replaces some. */
export function handlers(replaced: Partial<ControlHandlers> = {}): ControlHandlers {
  const none = async (): Promise<never> => {
    throw new GodwitError('GODWIT_INVALID_STATE', 'nothing is here');
  };
  return {
    status: async () => ({ pid: 1, guest: 'empty' }),
    migrate: none,
    cancel: none,
    adjust: none,
    switchover: none,
    postcopy: none,
    settle: none,
    recover: none,
    snapshot: none,
    pause: none,
    resume: none,
    balloon: none,
    powerButton: none,
    check: none,
    quit: none,
    ...replaced,
  };
}

/** An event of about `bytes` bytes in JSON. */
export function warning(bytes: number): MigrationEvent {
  return { type: 'warning', code: 'GODWIT_INTERNAL', message: 'x'.repeat(bytes) };
}
