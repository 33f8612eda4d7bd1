/**
 * `@godwit/observe/model`: the parts that models are made of, for the other packages of Godwit and for tests. **Unstable**: it may change
 * in any version.
 */
export { LastItems, ThinnedList } from './bounded-list.js';
export { DESTINATION_MACHINE } from './destination-model.js';
export { guestPlace } from './guest-place.js';
export {
  type DestinationModel,
  type DowntimeModel,
  type FaultsModel,
  type GuestPlace,
  type Known,
  type KnownRange,
  type Log,
  type LogEntry,
  type MigrationModel,
  MOST_LOG_ENTRIES,
  MOST_ROUNDS,
  MOST_SAMPLES,
  type PageCounts,
  type PlainError,
  type ProgressModel,
  type RoleStates,
  type RoundModel,
  type Rounds,
  type Samples,
  type SourceModel,
  type StateMachine,
  type StateStep,
  type StateVisit,
  type SummaryModel,
  type TermModel,
  type TrackerModel,
  type TrackerReport,
} from './migration-model.js';
export { ModelBuilder } from './model-builder.js';
export { type ModelPatch, patched } from './model-patch.js';
export { PatchMaker } from './patch-maker.js';
export { known, shortened } from './plain.js';
export { bytesText, countText, msText, rangeText, rateText, shareText, usText } from './quantity.js';
export { StateHistory } from './role-states.js';
export { type Sample, SampleSeries } from './sample-series.js';
export { SOURCE_MACHINE } from './source-model.js';
