import type { ModelBuilder } from './model-builder.js';
import type { ModelPatch } from './model-patch.js';

/** Makes the patches for viewers that have received all earlier patches. */
export class PatchMaker {
  readonly #builder: ModelBuilder;
  #rounds = { revision: 0, length: 0 };
  #log = { revision: 0, length: 0 };
  #samples = { revision: 0, length: 0 };

  constructor(builder: ModelBuilder) {
    this.#builder = builder;
  }

  /** The whole model, for a new viewer. The next patch for the other viewers stays as it is. */
  whole(): ModelPatch {
    return this.#patch(0, 0, 0);
  }

  /** The changes since the last call. */
  next(): ModelPatch {
    const { rounds, log, samples } = this.#builder;
    const since = (before: { revision: number; length: number }, revision: number) =>
      before.revision === revision ? before.length : 0;
    const patch = this.#patch(
      since(this.#rounds, rounds.revision),
      since(this.#log, log.revision),
      // The last point may still have changed.
      Math.max(0, since(this.#samples, samples.revision) - 1),
    );
    this.#rounds = { revision: rounds.revision, length: rounds.all.length };
    this.#log = { revision: log.revision, length: log.all.length };
    this.#samples = { revision: samples.revision, length: samples.length };
    return patch;
  }

  #patch(rounds: number, log: number, samples: number): ModelPatch {
    const builder = this.#builder;
    return {
      head: builder.head(),
      roundCount: builder.rounds.count,
      rounds: { from: rounds, items: builder.rounds.all.slice(rounds) },
      logDropped: builder.log.dropped,
      log: { from: log, items: builder.log.all.slice(log) },
      samples: { from: samples, columns: builder.samples.from(samples) },
    };
  }
}
