import { checkOptions, GodwitError, quoted } from '@godwit/core';
import type { LinkTransport } from '../link/link-transport.js';
import { cancelled, throwIfCancelled } from '../stream/cancellation.js';
import { type RestoreOptions, restoreFrom } from './restore-link.js';
import { saveTo } from './save-link.js';

/** A snapshot's file. */
export interface FileOptions extends RestoreOptions {
  /** The path of the snapshot. Saving replaces a file with this name when the new one is whole. */
  readonly path: string;
}

/**
 * A snapshot in a file: `migrate(vm, connectTo(file({ path })))` saves, `receive(await listenOn(file({ path })), ...)` restores. Each page
 * has one place in the file, so that a page that is sent again overwrites itself: the file is never larger than the guest's RAM, its
 * devices' state and about 0.2 % of the memory in use.
 *
 * - **Saving** is a live migration to a file. It appears under its name when it is whole, flushed and checked out by the
 *   source, in one atomic step; before that there is nothing, or the older snapshot. The guest is left paused, as after
 *   any migration: `vm.resume()` lets it go on beside its snapshot.
 * - **Restoring** is an ordinary `receive`. Every page, every piece of device state and all that describes them is checked; a file that is
 *   torn, damaged, foreign or newer is refused. The file stays: restored twice, there are two guests. A listener gives its file once, and
 *   then waits as one to which nobody connects; listen again to restore again.
 *
 * `docs/snapshot-format.md` describes the file. It is not encrypted, and its checksums keep nobody from changing it.
 *
 * @example
 * await migrate(vm, connectTo(file({ path: 'vm.snapshot' }))).result; // save
 * const { vm } = await receive(await listenOn(file({ path: 'vm.snapshot' })), { prepare }).result; // restore
 */
export function file(options: FileOptions): LinkTransport {
  checkOptions<FileOptions>('file', options, { path: true, pageChannels: true, verify: true });
  const { path } = options;
  if (typeof path !== 'string' || path === '' || path.includes('\0')) {
    throw new GodwitError('GODWIT_INVALID_ARGUMENT', `a snapshot needs the path of a file, got ${quoted(path)}`);
  }
  const address = `file:${path}`;
  const noStreams = (): GodwitError =>
    new GodwitError(
      'GODWIT_UNSUPPORTED',
      `${address} is no stream of bytes; give it to connectTo or listenOn, which make a link of it`,
    );
  return {
    connect: () => Promise.reject(noStreams()),
    listen: () => Promise.reject(noStreams()),
    links: {
      connector: saveTo(path),
      async listen() {
        const closing = new AbortController();
        const close = async () =>
          closing.abort(new GodwitError('GODWIT_INVALID_STATE', `the listener on ${address} is closed`));
        let given = false;
        return {
          address,
          listener: { address, accept: () => Promise.reject(noStreams()), close },
          async accept(signal) {
            const what = `restoring ${address}`;
            throwIfCancelled(closing.signal, what);
            throwIfCancelled(signal, what);
            if (given) await aborted([signal, closing.signal], what);
            given = true;
            try {
              return await restoreFrom(path, options);
            } catch (error) {
              given = false;
              throw error;
            }
          },
          close,
        };
      },
    },
  };
}

/** Rejects when one of the signals aborts. */
function aborted(signals: readonly AbortSignal[], what: string): Promise<never> {
  return new Promise((_, reject) => {
    for (const signal of signals) {
      signal.addEventListener('abort', () => reject(cancelled(signal, what)), { once: true });
    }
  });
}
