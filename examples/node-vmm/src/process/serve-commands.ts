import { GodwitError } from '@godwit/core';
import type { CommandAnswer, CommandHandlers, CommandRequest, CommandTable } from './command-messages.js';

/**
 * Answers the commands of the parent process (`CommandProcess`); they may overlap. When the channel to the parent closes, it calls
 * `close` and exits; after `lastResortMs` milliseconds it kills the process, since a thread that hangs in the kernel would keep it
 * alive.
 */
export function serveCommands<Commands extends CommandTable<Commands>>(
  handlers: CommandHandlers<Commands>,
  close: () => Promise<void>,
  lastResortMs: number,
): void {
  const answer = async ({ id, command, request }: CommandRequest): Promise<void> => {
    try {
      const handler = handlers[command as keyof Commands] as (request: unknown) => Promise<unknown>;
      sendToParent({ type: 'reply', id, value: await handler(request) });
    } catch (error) {
      const { code, message } = GodwitError.wrap(error, 'GODWIT_INTERNAL', `the process failed to ${command}`);
      sendToParent({ type: 'error', id, code, message });
    }
  };
  process.on('message', (message) => void answer(message as CommandRequest));
  process.once('disconnect', () => {
    setTimeout(() => process.kill(process.pid, 'SIGKILL'), lastResortMs).unref();
    void close().finally(() => process.exit());
  });
}

/** Sends an answer, or a message of the process's own. A parent that is gone is noticed by `disconnect`. */
export function sendToParent<Message extends { readonly type: string } = CommandAnswer>(message: Message): void {
  if (process.connected) process.send?.(message, undefined, undefined, () => {});
}
