import { Telemetry } from '@godwit/observe/opentelemetry';
import { afterEach, describe, expect, test } from '@jest/globals';
import { type ContextManager, context, ROOT_CONTEXT, SpanStatusCode, trace } from '@opentelemetry/api';
import {
  AggregationTemporality,
  DataPointType,
  InMemoryMetricExporter,
  MeterProvider,
  PeriodicExportingMetricReader,
} from '@opentelemetry/sdk-metrics';
import { BasicTracerProvider, InMemorySpanExporter, SimpleSpanProcessor } from '@opentelemetry/sdk-trace-base';
import { closingAfterEach } from './close-later.js';
import { listedMetrics } from './metrics-page.js';
import { BACKGROUND_EVENTS, DESTINATION_EVENTS, SOURCE_EVENTS, scripted } from './scripted.js';
import { ToyMigration } from './toy-migration.js';

const closeLater = closingAfterEach();

/** OpenTelemetry's own SDK, which keeps the exported metrics and spans in memory. */
class Backend {
  readonly #metricExporter = new InMemoryMetricExporter(AggregationTemporality.CUMULATIVE);
  readonly #reader = new PeriodicExportingMetricReader({
    exporter: this.#metricExporter,
    exportIntervalMillis: 3_600_000,
  });
  readonly meters = new MeterProvider({ readers: [this.#reader] });
  readonly #spanExporter = new InMemorySpanExporter();
  readonly tracers = new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(this.#spanExporter)] });
  readonly telemetry = new Telemetry({ meter: this.meters.getMeter('test'), tracer: this.tracers.getTracer('test') });

  async metrics() {
    await this.#reader.forceFlush();
    return (
      this.#metricExporter
        .getMetrics()
        .at(-1)
        ?.scopeMetrics.flatMap(({ metrics }) => metrics) ?? []
    );
  }

  get spans() {
    return this.#spanExporter.getFinishedSpans();
  }

  async close(): Promise<void> {
    await this.meters.shutdown();
    await this.tracers.shutdown();
  }
}

const KINDS: Readonly<Record<number, string>> = {
  [DataPointType.SUM]: 'counter',
  [DataPointType.GAUGE]: 'gauge',
  [DataPointType.HISTOGRAM]: 'histogram',
};

let backend = new Backend();

afterEach(async () => {
  await backend.close();
  backend = new Backend();
});

describe('metrics through OpenTelemetry', () => {
  test('are those of docs/metrics.md: names, kinds, units, attributes and meanings', async () => {
    backend.telemetry.watch(scripted(SOURCE_EVENTS));
    backend.telemetry.watchIncoming(scripted(DESTINATION_EVENTS));
    const found = (await backend.metrics()).map(({ descriptor, dataPointType, dataPoints }) => ({
      opentelemetry: descriptor.name,
      kind: KINDS[dataPointType],
      unit: descriptor.unit,
      meaning: descriptor.description,
      labels: [...new Set(dataPoints.flatMap(({ attributes }) => Object.keys(attributes)))]
        .filter((name) => name !== 'role')
        .sort(),
    }));
    const listed = listedMetrics().map(({ opentelemetry, kind, unit, meaning, labels }) => ({
      ...{ opentelemetry, kind, unit, meaning },
      labels: [...labels].sort(),
    }));
    const byName = (one: { opentelemetry: string }, other: { opentelemetry: string }) =>
      one.opentelemetry.localeCompare(other.opentelemetry);
    expect(found.sort(byName)).toEqual(listed.sort(byName));
  });

  test('of a real migration are what its summary says', async () => {
    const toy = closeLater(new ToyMigration());
    backend.telemetry.watch(toy.migration, { labels: { vm: 'a' } });
    const summary = await toy.migration.result;
    await toy.over();
    const wire = (await backend.metrics()).find(({ descriptor }) => descriptor.name === 'godwit.wire.io');
    expect(wire?.dataPoints).toMatchObject([{ attributes: { role: 'source', vm: 'a' }, value: summary.wireBytes }]);
  });
});

describe('spans', () => {
  test('are one for the migration, and in it one for each phase and each round', async () => {
    const toy = closeLater(new ToyMigration());
    backend.telemetry.watch(toy.migration, { labels: { vm: 'a' } });
    const summary = await toy.migration.result;
    await toy.over();
    const { spans } = backend;
    const [migration, ...others] = spans.filter(({ name }) => name === 'godwit.migration');
    expect(others).toEqual([]);
    expect(migration?.attributes).toMatchObject({
      'godwit.migration.id': toy.migration.id,
      vm: 'a',
      'godwit.downtime_ms': summary.downtimeMs,
      'godwit.downtime.ram_ms': summary.downtime.ramMs.actualMs,
      'godwit.wire_bytes': summary.wireBytes,
      'godwit.verified': true,
    });
    expect(migration?.status.code).toBe(SpanStatusCode.OK);
    const id = migration?.spanContext().spanId;
    const phases = spans.filter(({ name }) => name === 'godwit.phase');
    expect(phases.map(({ attributes }) => attributes['godwit.state'])).toEqual([
      'setup',
      'active',
      'device',
      'completed',
    ]);
    for (const phase of phases) expect(phase.parentSpanContext?.spanId).toBe(id);
    const rounds = spans.filter(({ name }) => name === 'godwit.round');
    expect(rounds.map(({ attributes }) => attributes['godwit.round.number'])).toEqual(
      summary.rounds.map(({ round }) => round),
    );
    for (const [index, round] of rounds.entries()) {
      const phase = phases.find((one) => one.spanContext().spanId === round.parentSpanContext?.spanId);
      const stopped = summary.rounds[index]?.phase === 'stop-and-copy';
      expect(phase?.attributes['godwit.state']).toBe(stopped ? 'device' : 'active');
      expect(round.attributes['godwit.round.wire_bytes']).toBe(summary.rounds[index]?.wireBytes);
    }
    const trace = migration?.spanContext().traceId;
    for (const span of spans) expect([span.spanContext().traceId, span.ended]).toEqual([trace, true]);
  });

  test('of a background snapshot have no downtime that was predicted', () => {
    backend.telemetry.watch(scripted(BACKGROUND_EVENTS));
    const migration = backend.spans.find(({ name }) => name === 'godwit.migration');
    expect(migration?.attributes).toMatchObject({ 'godwit.downtime_ms': 21 });
    expect(Object.keys(migration?.attributes ?? {})).not.toContain('godwit.predicted_downtime_ms');
  });

  test('of a migration that fails have its error, and the events on the way', () => {
    const failed = { type: 'failed', error: DESTINATION_EVENTS.at(-1) } as const;
    const error = failed.error?.type === 'failed' ? failed.error.error : undefined;
    if (error === undefined) throw new Error('the script has no error');
    backend.telemetry.watch(scripted([...SOURCE_EVENTS.slice(0, -2), { type: 'failed', error }]));
    const migration = backend.spans.find(({ name }) => name === 'godwit.migration');
    expect(migration?.status).toEqual({ code: SpanStatusCode.ERROR, message: 'seven pages never came' });
    expect(migration?.attributes['error.type']).toBe('GODWIT_PAGES_MISSING');
    expect(migration?.events.map(({ name }) => name)).toEqual(['link-lost', 'warning', 'went-back', 'exception']);
  });

  test('are in the span that is active where the migration is watched, and end when nobody watches any more', () => {
    const parent = backend.tracers.getTracer('test').startSpan('the upgrade of a host');
    const active = trace.setSpan(ROOT_CONTEXT, parent);
    const manager: ContextManager = {
      ...{
        active: () => active,
        with: (_, call, self, ...args) => call.apply(self, args),
        bind: (_, target) => target,
      },
      ...{ enable: () => manager, disable: () => manager },
    };
    context.setGlobalContextManager(manager);
    const watching = backend.telemetry.watch(scripted(SOURCE_EVENTS.slice(0, 4)));
    context.disable();
    expect(backend.spans.map(({ name }) => name)).toEqual(['godwit.phase']);
    watching.unsubscribe();
    expect(backend.spans.map(({ name }) => name)).toEqual([
      ...['godwit.phase', 'godwit.round', 'godwit.phase', 'godwit.migration'],
    ]);
    expect(backend.spans.at(-1)?.parentSpanContext?.spanId).toBe(parent.spanContext().spanId);
    parent.end();
  });
});
