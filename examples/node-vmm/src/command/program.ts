import { Command } from 'commander';
import { clientCommands } from './client-commands.js';
import { type Ended, guestCommands } from './guest-commands.js';
import { sweepCommand } from './sweep-command.js';

/**
 * The command `npm run vmm --`. Misspelt options and commands are refused with a suggestion. `ended` is called with the exit status of the
 * command.
 */
export function vmmProgram(ended: Ended): Command {
  const program = new Command('npm run vmm --')
    .description(
      'Virtual machines that move: run a guest, await it elsewhere, and migrate it, from two terminals or hosts',
    )
    .addHelpText(
      'after',
      '\nIn three terminals:\n' +
        '  npm run vmm -- run\n' +
        '  npm run vmm -- receive tcp:0.0.0.0:4444\n' +
        '  npm run vmm -- migrate tcp:127.0.0.1:4444 --verify\n' +
        '\nExit statuses and the control socket: docs/node-vmm.md',
    );
  program.exitOverride();
  for (const command of [...guestCommands(ended), ...clientCommands(ended), sweepCommand()]) {
    command.allowExcessArguments(false).copyInheritedSettings(program);
    program.addCommand(command);
  }
  return program;
}

/** Adds the command where it is left out: options alone, such as `--image FILE`, are those of `run`. */
export function withCommand(argv: readonly string[]): readonly string[] {
  const [first] = argv;
  const named = first === undefined || !first.startsWith('-') || first === '--help' || first === '-h';
  return named ? argv : ['run', ...argv];
}
