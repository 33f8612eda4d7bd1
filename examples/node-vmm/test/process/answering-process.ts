import { GodwitError } from '@godwit/core';
import { sendToParent, serveCommands } from '@godwit/example-node-vmm/process';

/** The commands of this process, which `command-process.test.ts` forks. */
export interface AnsweringCommands {
  double: { request: number; reply: number };
  fail: { request: { readonly code: 'GODWIT_BLOCKED' | undefined }; reply: null };
  /** Never answered. */
  hang: { request: null; reply: null };
  die: { request: null; reply: null };
}

export interface ClosingMessage {
  readonly type: 'closing';
}

serveCommands<AnsweringCommands>(
  {
    double: async (value) => value * 2,
    fail: async ({ code }) => {
      throw code === undefined ? new Error('plain') : new GodwitError(code, 'coded');
    },
    hang: async () => {
      sendToParent({ type: 'closing' });
      return await new Promise<never>(() => {});
    },
    die: async () => {
      process.stderr.write('last words');
      process.kill(process.pid, 'SIGKILL');
      return null;
    },
  },
  async () => {},
  1000,
);
