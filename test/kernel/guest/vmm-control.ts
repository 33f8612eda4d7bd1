import { createConnection } from 'node:net';

/** How long the two sides of a move may not hear of each other, in milliseconds. */
export const SILENCE_MS = 600_000;

/** Options of `migrate` where nothing is required of an emulated processor's speed: all may take as long as it needs. */
export const PATIENCE = {
  ...{ downtimeLimitMs: 20_000, pauseLimitMs: SILENCE_MS, connectTimeoutMs: SILENCE_MS },
  ...{ reconnectTimeoutMs: SILENCE_MS, settleTimeoutMs: SILENCE_MS, timeBudgetMs: SILENCE_MS },
};

/** A VMM's answer to `migrate` and `snapshot`: the figures that the suites look at, times in milliseconds. */
export interface MoveFigures {
  readonly downtimeMs: number;
  readonly totalMs: number;
  readonly rounds: number;
  readonly wireBytes: number;
}

/**
 * Sends one command to the control socket of a VMM (docs/node-vmm-control.md), and resolves with its reply. A process of `npm run vmm --`
 * would do the same, and takes seconds to start where the processor is emulated.
 *
 * @throws Error with the VMM's own message
 */
export function ask<Reply>(socket: string, command: string, request: object = {}): Promise<Reply> {
  return new Promise((resolve, reject) => {
    const connection = createConnection(socket, () => {
      connection.write(`${JSON.stringify({ id: 1, command, ...request })}\n`);
    });
    let text = '';
    connection.setEncoding('utf8').on('data', (piece: string) => {
      text += piece;
      if (!text.includes('\n')) return;
      const { reply, error } = JSON.parse(text) as { reply?: Reply; error?: { code: string; message: string } };
      if (reply === undefined) reject(new Error(`${command}: ${error?.code} ${error?.message}`));
      else resolve(reply);
      connection.destroy();
    });
    connection.on('error', reject);
    connection.on('close', () => reject(new Error(`${command}: the VMM at ${socket} has hung up`)));
  });
}
