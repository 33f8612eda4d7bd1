import type { ConvergencePolicy, PolicyInput } from '../convergence/policy.js';
import { GodwitError } from '../errors.js';
import type { MigrationEvent, ShadowReport } from '../migration-event.js';
import { askPolicy } from './ask-policy.js';
import { isForced, pauses } from './attempt-limits.js';

/**
 * Policies that are only asked. Each sees what the policy of the migration sees, and reports once what it would have ended pre-copy with;
 * what it says of the throttle or the bandwidth changes nothing, so that its inputs are those of the migration as it is.
 */
export class ShadowPolicies {
  readonly #policies: Readonly<Record<string, ConvergencePolicy>>;
  readonly #emit: (event: MigrationEvent) => void;
  readonly #reports = new Map<string, ShadowReport>();
  #last: Omit<ShadowReport, 'name' | 'action' | 'reason'> = NOTHING;

  constructor(policies: Readonly<Record<string, ConvergencePolicy>>, emit: (event: MigrationEvent) => void) {
    this.#policies = policies;
    this.#emit = emit;
  }

  /** What each has reported; those that have not decided come with the numbers of when they were last asked. */
  get reports(): readonly ShadowReport[] {
    return Object.keys(this.#policies).map(
      (name) =>
        this.#reports.get(name) ?? { name, action: 'none', reason: 'it has not decided to switch over', ...this.#last },
    );
  }

  /** Asks those that have not decided, each with an input of its own. Never throws. */
  ask(inputOf: () => PolicyInput, cannotThrottle: string): void {
    for (const [name, policy] of Object.entries(this.#policies)) {
      if (this.#reports.has(name)) continue;
      const input = inputOf();
      const { outcome, elapsedMs } = input;
      const { round, predictedDowntimeMs, newlyDirtyPages: owedPages } = outcome;
      this.#last = { round, elapsedMs, predictedDowntimeMs, owedPages };
      const decided = decide(name, policy, input, cannotThrottle);
      if (decided === undefined) continue;
      const report: ShadowReport = { name, ...decided, ...this.#last };
      this.#reports.set(name, report);
      this.#emit({ type: 'shadow', shadow: report });
    }
  }
}

const NOTHING = { round: 0, elapsedMs: 0, predictedDowntimeMs: 0, owedPages: 0 };

function decide(
  name: string,
  policy: ConvergencePolicy,
  input: PolicyInput,
  cannotThrottle: string,
): Pick<ShadowReport, 'action' | 'reason'> | undefined {
  try {
    const decision = askPolicy(policy, input, cannotThrottle, `the shadow policy "${name}"`);
    if (decision === undefined) return undefined;
    const { action, reason } = decision;
    if (action === 'abort' || action === 'postcopy') return { action, reason };
    if (pauses(decision)) return { action: isForced(decision) ? 'force' : 'switchover', reason };
    return undefined;
  } catch (error) {
    return { action: 'failed', reason: GodwitError.wrap(error, 'GODWIT_INTERNAL', 'it failed').message };
  }
}
