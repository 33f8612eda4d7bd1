import { checkRuns } from '../destination/run-check.js';
import { GodwitError } from '../errors.js';
import type { OwedFrame, PreparedFrame } from '../protocol/frame.js';
import type { SourceContext } from './source-context.js';

/**
 * Pages that a `load` of an attempt that was given up has written at the destination: owed again, before another attempt. The
 * destination names them ahead of `prepared`, on each connection; once an attempt's are noted, they are not noted again.
 */
export class OwedByLoad {
  readonly #context: () => SourceContext;
  #noted = 0;
  #named = false;

  constructor(context: () => SourceContext) {
    this.#context = context;
  }

  take({ block, runs }: OwedFrame): void {
    const { windows, harvester, session } = this.#context();
    checkRuns(windows.memory, block, runs, 'owed');
    if (this.#noted === session.attempt) return;
    this.#named = true;
    for (let i = 0; i < runs.length; i += 2) harvester.owe(block, runs[i] as number, runs[i + 1] as number);
  }

  prepared({ attempt }: PreparedFrame): void {
    const { session, encodings } = this.#context();
    if (!this.#named || attempt !== session.attempt) return;
    this.#named = false;
    this.#noted = attempt;
    if (!encodings.usesDeltas) return;
    // A delta would build on what the destination does not have any more: the channels begin anew, over another connection.
    encodings.forgetPages();
    const message = 'loading has changed pages that deltas build on; another connection takes its place';
    void session.current?.drop(new GodwitError('GODWIT_LINK_LOST', message));
  }
}
