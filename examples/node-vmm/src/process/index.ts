/** Commands to a process of one's own, and their answers, over the channel that `fork` makes. */
export type { CommandHandlers } from './command-messages.js';
export { CommandError, CommandProcess } from './command-process.js';
export { sendToParent, serveCommands } from './serve-commands.js';
