/**
 * `@godwit/observe`: the live page of a migration, and the report of a finished one. Metrics are in `@godwit/observe/prometheus` and
 * `@godwit/observe/opentelemetry`, each with an optional peer of its own.
 */
export { publishEvents, type TappedEvent, type TappedRole } from './diagnostics.js';
export type {
  DestinationModel,
  DowntimeModel,
  FaultsModel,
  GuestPlace,
  Known,
  KnownRange,
  Log,
  LogEntry,
  MigrationModel,
  PageCounts,
  PlainError,
  ProgressModel,
  RoleStates,
  RoundModel,
  Rounds,
  Samples,
  SourceModel,
  StateMachine,
  StateStep,
  StateVisit,
  SummaryModel,
  TermModel,
  TrackerModel,
  TrackerReport,
} from './model/migration-model.js';
export {
  type LimitsInForce,
  type Observation,
  type ObserveOptions,
  observe,
  observeIncoming,
  type Watched,
  type WatchedIncoming,
  type WatchedMigration,
} from './observe.js';
export { report } from './report/report.js';
export type { PageServer, ServeOptions } from './serve/page-server.js';
