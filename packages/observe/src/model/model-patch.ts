import type { LogEntry, MigrationModel, RoundModel, Samples } from './migration-model.js';

/** The part of a list from an index on; it replaces the viewer's items from that index on. */
export interface ListPatch<T> {
  readonly from: number;
  readonly items: readonly T[];
}

/** What has changed in a model since the last patch. The first patch is the whole model: all of its lists start at 0. */
export interface ModelPatch {
  readonly head: Omit<MigrationModel, 'rounds' | 'log' | 'samples'>;
  readonly roundCount: number;
  readonly rounds: ListPatch<RoundModel>;
  readonly logDropped: number;
  readonly log: ListPatch<LogEntry>;
  readonly samples: { readonly from: number; readonly columns: Samples };
}

/** The model with a patch applied; `undefined` is no model yet. */
export function patched(model: MigrationModel | undefined, patch: ModelPatch): MigrationModel {
  const { head, roundCount, rounds, logDropped, log, samples } = patch;
  const columns = Object.entries(samples.columns).map(([column, values]) => [
    column,
    [...(model?.samples[column as keyof Samples] ?? []).slice(0, samples.from), ...values],
  ]);
  return {
    ...head,
    samples: Object.fromEntries(columns) as unknown as Samples,
    rounds: { count: roundCount, kept: [...(model?.rounds.kept ?? []).slice(0, rounds.from), ...rounds.items] },
    log: { dropped: logDropped, entries: [...(model?.log.entries ?? []).slice(0, log.from), ...log.items] },
  };
}
