import { readFileSync } from 'node:fs';
import { join } from 'node:path';

const PAGE = join(import.meta.dirname, '..', '..', '..', 'docs', 'metrics.md');

export interface ListedMetric {
  readonly prometheus: string;
  readonly opentelemetry: string;
  readonly kind: string;
  readonly unit: string;
  readonly labels: readonly string[];
  readonly meaning: string;
}

/** The table of docs/metrics.md. */
export function listedMetrics(): ListedMetric[] {
  const text = readFileSync(PAGE, 'utf8');
  return [...text.matchAll(/^\| `(godwit_\w+)` \| `([\w.]+)` \| (\w+) \| (\S+) \| (.*?) \| (.+) \|$/gm)].map(
    ([, prometheus = '', opentelemetry = '', kind = '', unit = '', labels = '', meaning = '']) => ({
      ...{ prometheus, opentelemetry, kind, unit, meaning },
      labels: [...labels.matchAll(/`(\w+)`/g)].map(([, label = '']) => label),
    }),
  );
}

/** The channels that docs/metrics.md lists. */
export function listedChannels(): string[] {
  const text = readFileSync(PAGE, 'utf8');
  const rows = [...text.matchAll(/^\| (`godwit:.*?) \| .* \|$/gm)];
  return rows.flatMap(([, names = '']) => [...names.matchAll(/`([^`]+)`/g)].map(([, name = '']) => name));
}
