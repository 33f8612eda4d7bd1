import { addNamedPages } from '../destination/run-check.js';
import { GodwitError } from '../errors.js';
import { DirtyBitmaps } from '../memory/dirty-bitmaps.js';
import type { OwedFrame, PreparedFrame } from '../protocol/frame.js';
import type { SourceContext } from './source-context.js';

/**
 * Collects the pages that a `load` of a given-up attempt has written at the destination; they are sent again before another
 * attempt. The destination names them in `owed` frames before `prepared`, on each connection; the pages of an attempt count
 * once.
 */
export class OwedByLoad {
  readonly #context: () => SourceContext;
  #noted = 0;
  #named = false;

  constructor(context: () => SourceContext) {
    this.#context = context;
  }

  take(frame: OwedFrame): void {
    const { windows, harvester, session } = this.#context();
    const noted = this.#noted === session.attempt;
    // The frame is checked in any case.
    addNamedPages(windows.memory, frame, noted ? new DirtyBitmaps(windows.memory) : harvester.owed);
    if (!noted) this.#named = true;
  }

  prepared({ attempt }: PreparedFrame): void {
    const { session, encodings } = this.#context();
    if (!this.#named || attempt !== session.attempt) return;
    this.#named = false;
    this.#noted = attempt;
    if (!encodings.usesDeltas) return;
    // The next delta would be against a version of the page that the destination no longer has. Another connection begins
    // with new channels.
    encodings.forgetPages();
    const message = 'loading has changed pages that deltas build on; another connection replaces this one';
    void session.current?.drop(new GodwitError('GODWIT_LINK_LOST', message));
  }
}
