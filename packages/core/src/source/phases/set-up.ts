import { abortable } from '../../abortable.js';
import { GodwitError } from '../../errors.js';
import { checkGuestMemory } from '../../memory/check-guest-memory.js';
import { checkIdentities } from '../../protocol/shared-memory.js';
import type { ThreadRecipe } from '../../thread-recipe.js';
import { admit } from '../admission.js';
import { backgroundBlockers, migrationBlockers, postcopyBlockers } from '../blockers.js';
import { dryRunReport, emptySummary } from '../dry-run.js';
import { Finished, type SourceContext, type SourcePhase } from '../source-context.js';
import { keepWorkingSet, preferWorkingSet } from '../working-set-order.js';

/** Checks the VM, makes the first connection, negotiates with the destination and starts the trackers. No page moves. */
export class SetUp implements SourcePhase {
  readonly name = 'set-up';

  async run(context: SourceContext): Promise<SourcePhase | Finished> {
    const { vm, session, options, rounds, tracker, model, devices, guest } = context;
    const { signal } = session;
    signal.throwIfAborted();
    context.setState('setup');
    checkGuestMemory(vm.memory);
    checkIdentities(vm.memory);
    preferWorkingSet(context);
    if (vm.trackers.length === 0 && options.background === undefined) {
      throw new GodwitError(
        'GODWIT_INVALID_ARGUMENT',
        'the VM has no dirty tracker: what the guest writes meanwhile would be lost',
      );
    }
    guest.checkAlive();
    const blockers = [
      ...(await migrationBlockers(vm, signal)),
      ...(options.postcopy ? postcopyBlockers(vm) : []),
      ...(options.background === undefined ? [] : backgroundBlockers(vm, options.background)),
    ];
    if (blockers.length > 0 && !options.dryRun) throw blocked(blockers);
    const sizes = await devices.reports.ask(signal);
    // The hello has only known sizes: an assumed size is no reason to refuse the migration.
    const { assumptions } = devices.reports;
    session.stateBytes = sizes.map((bytes, index) => (assumptions[index] === undefined ? bytes : 0));
    for (const message of devices.reports.takeUntold()) {
      context.emit({ type: 'warning', code: 'GODWIT_UNSUPPORTED', message });
    }
    model.devices = devices.reports.outlook;
    const { connection, answer } = await session.first(options.dryRun ? 'dryRun' : 'running');
    rounds.start(connection, answer);
    if (options.postcopy && !context.postcopyAgreed) throw noUrgentChannel(connection.peer);
    if (options.background !== undefined && connection.pageTarget === undefined) throw noFile(connection.peer);
    keepWorkingSet(context, connection);
    if (options.dryRun) {
      const report = dryRunReport(context, connection.peer, answer, sizes, blockers);
      context.emit({ type: 'dry-run', report });
      // The error is thrown before the connection is closed: the end of the connection would otherwise be the first
      // cause.
      if (blockers.length > 0) throw blocked(blockers);
      await session.close(undefined);
      return new Finished(emptySummary(context, report));
    }
    if (options.background !== undefined) {
      context.setState('active');
      return context.phases.background(connection, (connection.pageTarget as () => ThreadRecipe)());
    }
    // Logging starts before the first byte is read.
    const starting = tracker.start();
    context.claim.keepUntil(starting, `start() of the dirty tracker "${tracker.name}"`);
    await abortable(starting, signal);
    context.rehearsal.begin();
    await rounds.ping((ms) => model.roundTrip(ms));
    await admit(context, connection, answer);
    if (context.state() === 'setup') context.setState('active');
    return context.phases.preCopy();
  }
}

function noUrgentChannel(peer: string): GodwitError {
  return new GodwitError(
    'GODWIT_UNSUPPORTED',
    `post-copy takes a stream of its own, and a link to ${peer} has only one: use a transport that can connect more than once, or leave postcopy out`,
  );
}

function noFile(peer: string): GodwitError {
  return new GodwitError(
    'GODWIT_UNSUPPORTED',
    `a background snapshot is saved to a file, connectTo(file({ path })), whose pages have fixed places; ${peer} takes them in rounds only`,
  );
}

function blocked(reasons: readonly string[]): GodwitError {
  return new GodwitError('GODWIT_BLOCKED', `the VM cannot be migrated now: ${reasons.join('; ')}`);
}
