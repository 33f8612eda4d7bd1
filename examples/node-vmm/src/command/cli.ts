#!/usr/bin/env node
import { GodwitError } from '@godwit/core';
import { CommanderError } from 'commander';
import { ControlError } from '../control/control-error.js';
import { failed } from './client-command.js';
import { EXIT } from './exit-status.js';
import { vmmProgram, withCommand } from './program.js';

// Standard output breaks when its reader has gone, as with `| head`. The error is ignored, so that a migration goes on.
process.stdout.on('error', () => {});
try {
  const program = vmmProgram((status) => {
    process.exitCode = status;
  });
  await program.parseAsync(withCommand(process.argv.slice(2)), { from: 'user' });
} catch (error) {
  // Commander has already printed its error.
  if (error instanceof CommanderError) process.exitCode = error.exitCode === 0 ? EXIT.done : EXIT.usage;
  else if (GodwitError.is(error) || error instanceof ControlError || isSystemError(error))
    process.exitCode = failed(error);
  else throw error;
}

function isSystemError(error: unknown): boolean {
  return error instanceof Error && 'syscall' in error;
}
