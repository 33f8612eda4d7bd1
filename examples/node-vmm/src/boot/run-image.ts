import { once } from 'node:events';
import { Machine } from '../machine/machine.js';

export interface ImageToRun {
  readonly memoryBytes: number;
  readonly image: Uint8Array;
}

/**
 * Boots an image and passes what it prints to `print`, until the signal aborts. It also waits when the guest has halted, since the
 * guest may be inspected from outside.
 *
 * @throws GodwitError GODWIT_GUEST_CRASHED when the guest cannot go on, and the errors of `Machine.create`
 */
export async function runImage(
  { memoryBytes, image }: ImageToRun,
  print: (text: string) => void,
  signal: AbortSignal,
): Promise<void> {
  const machine = await Machine.create({ memoryBytes, vcpus: 1, bootImage: image });
  try {
    machine.console.subscribe(print);
    const crashed = new Promise<never>((_, reject) => {
      machine.events.subscribe((event) => event.type === 'crashed' && reject(event.error));
    });
    // Interrupted before the start.
    if (signal.aborted) return;
    const interrupted = once(signal, 'abort');
    await machine.resume();
    await Promise.race([interrupted, crashed]);
  } finally {
    await machine.close();
  }
}
