import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { observe } from '@godwit/observe';
import { PrometheusMetrics } from '@godwit/observe/prometheus';
import { describe, expect, test } from '@jest/globals';
import { Registry } from 'prom-client';
import { closingAfterEach } from './close-later.js';
import { ask } from './http.js';
import { listedMetrics } from './metrics-page.js';
import { BACKGROUND_EVENTS, DESTINATION_EVENTS, SOURCE_EVENTS, scripted } from './scripted.js';
import { ToyMigration } from './toy-migration.js';

const closeLater = closingAfterEach();

const GRAFANA = join(import.meta.dirname, '..', 'grafana', 'godwit.json');

interface Scraped {
  readonly kind: string;
  readonly help: string;
  /** The values, by the labels as text. */
  readonly values: ReadonlyMap<string, number>;
  readonly labels: ReadonlySet<string>;
}

/** Parses the text format of Prometheus. */
function parse(text: string): Map<string, Scraped> {
  const metrics = new Map<string, { kind: string; help: string; values: Map<string, number>; labels: Set<string> }>();
  let metric = { kind: '', help: '', values: new Map<string, number>(), labels: new Set<string>() };
  for (const line of text.split('\n')) {
    const [, name = '', help = ''] = /^# HELP (\w+) (.*)$/.exec(line) ?? [];
    if (name !== '') {
      metric = { kind: '', help, values: new Map(), labels: new Set() };
      metrics.set(name, metric);
    }
    metric.kind = /^# TYPE \w+ (\w+)$/.exec(line)?.[1] ?? metric.kind;
    const [, sample, labels = '', value] = /^(\w+)(?:\{(.*)\})? (\S+)$/.exec(line) ?? [];
    if (sample === undefined) continue;
    metric.values.set(`${sample.replace(/^.*(_bucket|_sum|_count)$/, '$1')}{${labels}}`, Number(value));
    for (const [, label = ''] of labels.matchAll(/(\w+)="/g)) metric.labels.add(label);
  }
  return metrics;
}

function sumOf({ values }: Scraped): number {
  return [...values.values()].reduce((sum, value) => sum + value, 0);
}

describe('metrics in a registry of prom-client', () => {
  test('are those of docs/metrics.md: names, kinds, labels and meanings, scraped over HTTP', async () => {
    const registry = new Registry();
    const metrics = new PrometheusMetrics(registry, { labelNames: ['vm'] });
    metrics.watch(scripted(SOURCE_EVENTS), { labels: { vm: 'a' } });
    metrics.watchIncoming(scripted(DESTINATION_EVENTS), { labels: { vm: 'a' } });
    const toy = closeLater(new ToyMigration());
    const observation = closeLater(observe(toy.migration));
    const page = await observation.serve({ metrics: registry });
    const { headers, body } = await ask(page.port, '/metrics');
    expect(headers['content-type']).toMatch(/^text\/plain; version=0.0.4/);
    const scraped = parse(body);
    const found = [...scraped].map(([prometheus, { kind, help, labels }]) => ({
      ...{ prometheus, kind, meaning: help },
      labels: [...labels].filter((label) => !['role', 'vm', 'le'].includes(label)).sort(),
    }));
    const listed = listedMetrics().map(({ prometheus, kind, meaning, labels }) => ({
      ...{ prometheus, kind, meaning },
      labels: [...labels].sort(),
    }));
    expect(found).toEqual(listed);
    for (const [name, metric] of scraped) {
      expect([name, metric.values.size > 0]).toEqual([name, true]);
      expect([name, metric.labels.has('role'), metric.labels.has('vm')]).toEqual([name, true, true]);
    }
  });

  test('count what has happened, once, and never less than before', async () => {
    const registry = new Registry();
    const metrics = new PrometheusMetrics(registry);
    metrics.watch(scripted(SOURCE_EVENTS));
    metrics.watchIncoming(scripted(DESTINATION_EVENTS));
    const scraped = parse(await registry.metrics());
    const value = (name: string, labels: string) => scraped.get(name)?.values.get(`${name}{${labels}}`);
    expect(value('godwit_wire_bytes_total', 'role="source"')).toBe(2500);
    expect(value('godwit_wire_bytes_total', 'role="destination"')).toBe(700);
    expect(value('godwit_pages_total', 'role="source",kind="raw"')).toBe(500);
    expect(value('godwit_saved_bytes_total', 'role="source"')).toBe(90);
    expect(value('godwit_migrations_ended_total', 'role="source",outcome="completed",code=""')).toBe(1);
    const failed = 'role="destination",outcome="failed",code="GODWIT_PAGES_MISSING"';
    expect(value('godwit_migrations_ended_total', failed)).toBe(1);
    expect(value('godwit_switchovers_given_up_total', 'role="source",term="load"')).toBe(1);
    expect(value('godwit_tracker_dirty_pages_total', 'role="source",tracker="kvm"')).toBe(500);
    expect(value('godwit_page_faults_total', 'role="destination"')).toBe(40);
    expect(value('godwit_throttle_ratio', 'role="source"')).toBe(0);
    // The migration is over, so that it counts for no state any more.
    expect(sumOf(scraped.get('godwit_migrations_active') as Scraped)).toBe(0);
    expect(scraped.get('godwit_downtime_term_seconds')?.values.get('_sum{role="source",term="pause"}')).toBe(0.003);
  });

  test('of a real migration are what its summary says', async () => {
    const registry = new Registry();
    const metrics = new PrometheusMetrics(registry);
    const toy = closeLater(new ToyMigration());
    metrics.watch(toy.migration);
    metrics.watchIncoming(toy.incoming);
    const summary = await toy.migration.result;
    const received = await toy.incoming.result;
    await toy.over();
    const scraped = parse(await registry.metrics());
    const value = (name: string, labels: string) => scraped.get(name)?.values.get(`${name}{${labels}}`);
    expect(value('godwit_wire_bytes_total', 'role="source"')).toBe(summary.wireBytes);
    expect(value('godwit_wire_bytes_total', 'role="destination"')).toBe(received.summary.wireBytes);
    expect(value('godwit_pages_total', 'role="source",kind="raw"')).toBe(summary.pages.raw);
    expect(sumOf(scraped.get('godwit_rounds_total') as Scraped)).toBe(2 * summary.rounds.length);
    expect(scraped.get('godwit_downtime_seconds')?.values.get('_sum{role="source"}')).toBe(summary.downtimeMs / 1000);
    expect(value('godwit_migrations_ended_total', 'role="source",outcome="completed",code=""')).toBe(1);
  });

  test('of a background snapshot have its pause, which was not predicted', async () => {
    const registry = new Registry();
    new PrometheusMetrics(registry).watch(scripted(BACKGROUND_EVENTS));
    const scraped = parse(await registry.metrics());
    const count = (name: string) => scraped.get(name)?.values.get('_count{role="source"}');
    expect(count('godwit_downtime_seconds')).toBe(1);
    expect(count('godwit_downtime_predicted_seconds') ?? 0).toBe(0);
  });

  test('of a migration that is not watched any more no longer count it as active', async () => {
    const registry = new Registry();
    const metrics = new PrometheusMetrics(registry);
    const watching = metrics.watch(scripted(SOURCE_EVENTS.slice(0, 2)));
    const active = async () => parse(await registry.metrics()).get('godwit_migrations_active') as Scraped;
    expect((await active()).values.get('godwit_migrations_active{role="source",state="active"}')).toBe(1);
    watching.unsubscribe();
    watching.unsubscribe();
    expect(sumOf(await active())).toBe(0);
  });
});

test('the dashboard for Grafana asks for metrics that exist, with labels that they have', () => {
  const dashboard = JSON.parse(readFileSync(GRAFANA, 'utf8')) as {
    readonly panels: readonly { readonly title: string; readonly targets?: readonly { readonly expr: string }[] }[];
  };
  const known = new Map<string, readonly string[]>();
  for (const { prometheus, kind, labels } of listedMetrics()) {
    known.set(prometheus, labels);
    if (kind === 'histogram')
      for (const end of ['_bucket', '_sum', '_count']) known.set(prometheus + end, [...labels, 'le']);
  }
  const expressions = dashboard.panels.flatMap(({ targets = [] }) => targets.map(({ expr }) => expr));
  expect(expressions.length).toBeGreaterThan(10);
  const used = new Set<string>();
  for (const expression of expressions) {
    for (const [name] of expression.matchAll(/godwit_\w+/g)) {
      expect([name, known.has(name)]).toEqual([name, true]);
      used.add(name.replace(/_(bucket|sum|count)$/, ''));
      for (const [, grouping = ''] of expression.matchAll(/by \(([^)]*)\)/g)) {
        const unknown = grouping.split(/, */).filter((label) => label !== 'role' && !known.get(name)?.includes(label));
        expect([expression, unknown]).toEqual([expression, []]);
      }
    }
  }
  expect(used.size).toBeGreaterThan(12);
});
