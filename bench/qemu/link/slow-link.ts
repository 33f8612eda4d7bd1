import { fork } from 'node:child_process';
import { once } from 'node:events';

/** A TCP proxy with a limited rate from its own port to another, and without a limit in the other direction. */
export interface SlowLink {
  /** Its port on 127.0.0.1. */
  readonly port: number;
  close(): Promise<void>;
}

/** Starts a slow link in its own process, so that its rate does not depend on the work of this one. */
export async function slowLink(toPort: number, bytesPerSecond: number): Promise<SlowLink> {
  const child = fork(new URL('./slow-link-process.js', import.meta.url), [String(toPort), String(bytesPerSecond)]);
  const exited = once(child, 'exit');
  const [port] = (await Promise.race([
    once(child, 'message'),
    exited.then(([status]) => {
      throw new Error(`the slow link ended with status ${status}`);
    }),
  ])) as [number];
  return {
    port,
    async close() {
      if (child.connected) child.disconnect();
      await exited;
    },
  };
}
