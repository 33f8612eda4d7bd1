import type { Check } from './check.js';
import { deviceChecks } from './device-checks.js';
import type { HostFacts } from './host-facts.js';
import type { Purpose } from './purposes.js';
import { systemChecks } from './system-checks.js';
import { trackerChecks } from './tracker-checks.js';

export interface Diagnosis {
  readonly checks: readonly Check[];
  /** For each purpose, the names of the checks that prevent it; if there are none, the purpose works here. */
  readonly purposes: Readonly<Record<Purpose, readonly string[]>>;
}

/** Determines what this host can do. */
export function diagnose(facts: HostFacts): Diagnosis {
  const checks = [...systemChecks(facts), ...trackerChecks(facts), ...deviceChecks(facts)];
  const inTheWay = (purpose: Purpose) =>
    checks.filter((check) => check.verdict === 'missing' && check.for.includes(purpose)).map(({ name }) => name);
  const purposes: Record<Purpose, readonly string[]> = {
    move: inTheWay('move'),
    kvm: inTheWay('kvm'),
    'at-once': inTheWay('at-once'),
    vfio: inTheWay('vfio'),
    'huge-pages': inTheWay('huge-pages'),
  };
  return { checks, purposes };
}
