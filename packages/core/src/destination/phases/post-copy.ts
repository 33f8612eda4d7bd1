import { GodwitError } from '../../errors.js';
import { settledWithin } from '../../in-time.js';
import type { MissingMemory } from '../../missing/missing-memory.js';
import type { Arriving, DestinationContext, DestinationPhase } from '../destination-context.js';

/**
 * How long the pause of a guest may take whose pages cannot be had: as long as its vCPUs may wait for one, and after that. Milliseconds.
 */
const WAITING_PAUSE_MS = 1_000;
const PAUSE_MS = 10_000;

/**
 * The guest runs here, and its pages come. It leads on when all of them are there. When pages cannot be had, the guest is paused where it
 * is, and those that are missing are marked so that nobody reads zeros in their place.
 */
export class PostCopy implements DestinationPhase {
  readonly name = 'post-copy';
  readonly #arriving: Arriving;
  readonly #missing: MissingMemory;

  constructor(arriving: Arriving, missing: MissingMemory) {
    this.#arriving = arriving;
    this.#missing = missing;
  }

  async run(context: DestinationContext): Promise<DestinationPhase> {
    const { emit, phases } = context;
    this.#missing.loadRest();
    const reporting = new AbortController();
    void this.#report(context, reporting.signal);
    try {
      await Promise.race([this.#missing.whole, context.pagesGivenUp]);
      emit({ type: 'faults', faults: this.#missing.status() });
      return phases.release(this.#arriving);
    } catch (error) {
      emit({ type: 'faults', faults: this.#missing.status() });
      await this.#stand(context);
      throw GodwitError.wrap(error, 'GODWIT_PAGES_MISSING', 'the pages of the guest cannot be had');
    } finally {
      reporting.abort();
    }
  }

  /**
   * Stops the guest where it is. A vCPU that waits for a page cannot always be called out of the guest; once the page is marked as one that
   * never comes, it ends there with an error of its own.
   */
  async #stand({ ownership, options, emit }: DestinationContext): Promise<void> {
    const { vm } = this.#arriving;
    if (ownership.allows('strand')) ownership.apply('strand');
    const pausing = Promise.resolve()
      .then(() => vm.pause())
      .catch((error: unknown) => {
        const message = `the guest whose pages are missing could not be paused: ${error instanceof Error ? error.message : String(error)}`;
        emit({ type: 'warning', code: 'GODWIT_VM_FAILED', message });
      });
    await settledWithin(pausing, options.clock, WAITING_PAUSE_MS);
    await this.#missing.end();
    await settledWithin(pausing, options.clock, PAUSE_MS);
  }

  async #report({ options, emit }: DestinationContext, over: AbortSignal): Promise<void> {
    const { clock, progressIntervalMs } = options;
    if (progressIntervalMs === 0) return;
    try {
      for (;;) {
        await clock.sleep(progressIntervalMs, over);
        emit({ type: 'faults', faults: this.#missing.status() });
      }
    } catch {
      // All pages are there, or will not be.
    }
  }
}
