import type { ConvergencePolicy, PolicyInput } from '../convergence/policy.js';
import { GodwitError } from '../errors.js';
import type { MigrationEvent, ShadowReport } from '../migration-event.js';
import { askPolicy } from './ask-policy.js';
import { isForced, pauses } from './attempt-limits.js';

/**
 * Policies that are only asked. Each gets the same input as the policy of the migration, and reports once the decision with which it
 * would have ended pre-copy; its decisions on throttle or bandwidth are not carried out, so that its inputs are those of the actual
 * migration.
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

  /** The report of each policy; one that has not decided has the numbers of the moment when it was last asked. */
  get reports(): readonly ShadowReport[] {
    return Object.keys(this.#policies).map(
      (name) =>
        this.#reports.get(name) ?? { name, action: 'none', reason: 'it has not decided to switch over', ...this.#last },
    );
  }

  /** Asks the policies that have not decided, each with an input of its own. Never throws. */
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
