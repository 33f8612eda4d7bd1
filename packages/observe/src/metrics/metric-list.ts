/** A metric, under both of its names. docs/metrics.md is a table of these. */
export interface MetricDefinition {
  /** In Prometheus' text; a counter's ends with `_total`. */
  readonly prometheus: string;
  /** As an OpenTelemetry instrument. */
  readonly opentelemetry: string;
  readonly kind: 'counter' | 'gauge' | 'histogram';
  /** The unit in UCUM, which OpenTelemetry uses: `s`, `By`, `By/s`, `{page}`, `1`. */
  readonly unit: string;
  readonly labels: readonly string[];
  readonly help: string;
  /** Upper bounds of a histogram's buckets. */
  readonly buckets?: readonly number[];
}

const DOWNTIME_BUCKETS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 5, 10, 30];
const TERM_BUCKETS = [0.0001, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5];
const DURATION_BUCKETS = [0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 14_400];

/**
 * All metrics. Each has the label `role`, `source` or `destination`, and those of `WatchOptions.labels`; a role reports only what it
 * knows.
 */
export const METRICS = {
  started: {
    ...{ prometheus: 'godwit_migrations_started_total', opentelemetry: 'godwit.migration.started' },
    ...{ kind: 'counter', unit: '{migration}', labels: [] },
    help: 'Migrations that were watched from their beginning or later.',
  },
  ended: {
    ...{ prometheus: 'godwit_migrations_ended_total', opentelemetry: 'godwit.migration.ended' },
    ...{ kind: 'counter', unit: '{migration}', labels: ['outcome', 'code'] },
    help: 'Migrations that have ended: outcome is completed, failed or cancelled; code is that of the error, or empty.',
  },
  active: {
    ...{ prometheus: 'godwit_migrations_active', opentelemetry: 'godwit.migration.active' },
    ...{ kind: 'gauge', unit: '{migration}', labels: ['state'] },
    help: 'Migrations under way, by their state. A state that none is in any more is 0.',
  },
  duration: {
    ...{ prometheus: 'godwit_migration_duration_seconds', opentelemetry: 'godwit.migration.duration' },
    ...{ kind: 'histogram', unit: 's', labels: ['outcome'], buckets: DURATION_BUCKETS },
    help: 'From the beginning of a migration to its end.',
  },
  downtime: {
    ...{ prometheus: 'godwit_downtime_seconds', opentelemetry: 'godwit.downtime' },
    ...{ kind: 'histogram', unit: 's', labels: [], buckets: DOWNTIME_BUCKETS },
    help: 'How long the guest was down in a migration that completed.',
  },
  downtimePredicted: {
    ...{ prometheus: 'godwit_downtime_predicted_seconds', opentelemetry: 'godwit.downtime.predicted' },
    ...{ kind: 'histogram', unit: 's', labels: [], buckets: DOWNTIME_BUCKETS },
    help: 'What was predicted of that downtime when the switchover was decided.',
  },
  downtimeTerm: {
    ...{ prometheus: 'godwit_downtime_term_seconds', opentelemetry: 'godwit.downtime.term' },
    ...{ kind: 'histogram', unit: 's', labels: ['term'], buckets: TERM_BUCKETS },
    help: 'The terms of that downtime: pause, harvest, ram, device, load, roundTrip, resume.',
  },
  expectedDowntime: {
    ...{ prometheus: 'godwit_expected_downtime_seconds', opentelemetry: 'godwit.downtime.expected' },
    ...{ kind: 'gauge', unit: 's', labels: [] },
    help: 'The downtime if the migration under way switched over now.',
  },
  rounds: {
    ...{ prometheus: 'godwit_rounds_total', opentelemetry: 'godwit.round.count' },
    ...{ kind: 'counter', unit: '{round}', labels: ['phase'] },
    help: 'Rounds that have ended: pre-copy or stop-and-copy; at the destination received.',
  },
  roundDuration: {
    ...{ prometheus: 'godwit_round_duration_seconds', opentelemetry: 'godwit.round.duration' },
    ...{ kind: 'histogram', unit: 's', labels: ['phase'], buckets: DURATION_BUCKETS },
    help: 'From the beginning of a round to the decision after it.',
  },
  pages: {
    ...{ prometheus: 'godwit_pages_total', opentelemetry: 'godwit.page.count' },
    ...{ kind: 'counter', unit: '{page}', labels: ['kind'] },
    help: 'Pages that were sent or received, by how: raw, zero, hole, delta, compressed.',
  },
  wireBytes: {
    ...{ prometheus: 'godwit_wire_bytes_total', opentelemetry: 'godwit.wire.io' },
    ...{ kind: 'counter', unit: 'By', labels: [] },
    help: 'Bytes that were written (source) or read (destination) on all streams, framing included.',
  },
  savedBytes: {
    ...{ prometheus: 'godwit_saved_bytes_total', opentelemetry: 'godwit.wire.saved' },
    ...{ kind: 'counter', unit: 'By', labels: [] },
    help: 'Bytes that deltas and compression have saved.',
  },
  wireRate: {
    ...{ prometheus: 'godwit_wire_bytes_per_second', opentelemetry: 'godwit.wire.rate' },
    ...{ kind: 'gauge', unit: 'By/s', labels: [] },
    help: 'Wire bytes per second, over about the last second; 0 once the migration is over.',
  },
  linkRate: {
    ...{ prometheus: 'godwit_link_bytes_per_second', opentelemetry: 'godwit.link.rate' },
    ...{ kind: 'gauge', unit: 'By/s', labels: [] },
    help: "The link's own rate, as learned over the rounds.",
  },
  dirtyRate: {
    ...{ prometheus: 'godwit_dirty_pages_per_second', opentelemetry: 'godwit.dirty.rate' },
    ...{ kind: 'gauge', unit: '{page}/s', labels: [] },
    help: 'Pages that became dirty in a second, at the last harvest; 0 once the migration is over.',
  },
  trackerPages: {
    ...{ prometheus: 'godwit_tracker_dirty_pages_total', opentelemetry: 'godwit.tracker.dirty' },
    ...{ kind: 'counter', unit: '{page}', labels: ['tracker'] },
    help: 'Pages that each dirty tracker has reported; several trackers may report the same page.',
  },
  throttle: {
    ...{ prometheus: 'godwit_throttle_ratio', opentelemetry: 'godwit.throttle' },
    ...{ kind: 'gauge', unit: '1', labels: [] },
    help: 'The share of time for which vCPUs are held back.',
  },
  wentBack: {
    ...{ prometheus: 'godwit_switchovers_given_up_total', opentelemetry: 'godwit.switchover.given_up' },
    ...{ kind: 'counter', unit: '{attempt}', labels: ['term'] },
    help: 'Stop-and-copies that were given up, by the term of the downtime that was under way; the guest ran on at the source.',
  },
  linkLost: {
    ...{ prometheus: 'godwit_links_lost_total', opentelemetry: 'godwit.link.lost' },
    ...{ kind: 'counter', unit: '{link}', labels: ['code'] },
    help: 'Links that were lost during a migration, by the code of the error.',
  },
  warnings: {
    ...{ prometheus: 'godwit_warnings_total', opentelemetry: 'godwit.warning.count' },
    ...{ kind: 'counter', unit: '{warning}', labels: ['code'] },
    help: 'Warnings, by the code of the error.',
  },
  faults: {
    ...{ prometheus: 'godwit_page_faults_total', opentelemetry: 'godwit.fault.count' },
    ...{ kind: 'counter', unit: '{fault}', labels: [] },
    help: 'Page faults of guests that run before their memory is whole.',
  },
  missing: {
    ...{ prometheus: 'godwit_pages_missing', opentelemetry: 'godwit.page.missing' },
    ...{ kind: 'gauge', unit: '{page}', labels: [] },
    help: 'Pages that have not come yet of guests that run before their memory is whole.',
  },
} as const satisfies Readonly<Record<string, MetricDefinition>>;

export type MetricName = keyof typeof METRICS;
/** Labels of a measurement, by their names: attributes in OpenTelemetry. */
export type Labels = Readonly<Record<string, string>>;

/** Takes measurements: `add` for a counter, `set` for a gauge, `record` for a histogram. */
export interface MetricSink {
  add(metric: MetricName, value: number, labels: Labels): void;
  set(metric: MetricName, value: number, labels: Labels): void;
  record(metric: MetricName, value: number, labels: Labels): void;
}
