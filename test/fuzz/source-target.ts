import {
  type ConvergencePolicy,
  GodwitError,
  type LinkConnector,
  type MigratableDevice,
  type MigratableVm,
  migrate,
  SoftwareTracker,
} from '@godwit/core';
import { Decisions } from './decisions.js';
import { BLOCK_PAGES, PAGE } from './example-frames.js';
import { fastClock } from './fast-clock.js';
import { type FuzzTarget, mustSettle } from './fuzz-target.js';
import { GuardedMemory } from './guarded-memory.js';
import { HostileDestination } from './hostile-destination.js';
import { HostileRequests } from './hostile-requests.js';

/** A device that reports a second `save` while one is pending. */
function device(id: string, onLapse: (lapse: string) => void): MigratableDevice {
  let saves = 0;
  return {
    id,
    version: 1,
    async *save() {
      if (++saves > 1) onLapse(`device "${id}" is saved while it is being saved`);
      try {
        yield new Uint8Array(24).fill(1);
      } finally {
        saves--;
      }
    },
    load: async () => {},
  };
}

/**
 * Switches to post-copy as soon as that is possible, when the guest has not written anything: all pages that were not
 * sent are then missing.
 */
const postcopyAtOnce: ConvergencePolicy = ({ canPostcopy, moment }) =>
  canPostcopy && moment === 'round-end' ? { action: 'postcopy', reason: 'at once' } : undefined;

/** Runs a source against a hostile destination: the guest must run on at the source, unless it was handed over. */
export const sourceTarget: FuzzTarget = {
  name: 'source',
  description: 'a hostile destination, frame by frame, against the source',
  longest: 512,
  seeds: async () => [new Uint8Array(64).fill(255), new Uint8Array(8), new Uint8Array(4).fill(1)],
  async run(input) {
    const decisions = new Decisions(input);
    const postcopy = decisions.odds(96);
    const verify = !postcopy && decisions.odds(64);
    const memory = new GuardedMemory(BLOCK_PAGES);
    memory.blocks[0]?.view(PAGE, PAGE).fill(7);
    const before = memory.blocks.map((block) => block.view(0, block.byteLength).slice());
    const tracker = new SoftwareTracker(memory);
    let running = true;
    let precopied = 0;
    let lapse: string | undefined;
    const onLapse = (said: string) => {
      lapse ??= said;
    };
    const vm: MigratableVm = {
      memory,
      trackers: [tracker],
      devices: [
        device('cpu', onLapse),
        {
          ...device('nic', onLapse),
          // State while the guest runs, in pieces of all sizes, empty ones too.
          async *precopy() {
            if (precopied++ < 3) yield new Uint8Array(24 * precopied);
          },
          restart: async () => {},
        },
      ],
      pause: async () => {
        running = false;
        // The pages of the guest's last writes are missing at the destination.
        tracker.mark(0, 0, 3 * PAGE);
        tracker.mark(1, 2 * PAGE, PAGE);
      },
      resume: async () => {
        running = true;
      },
    };
    const destination = new HostileDestination(decisions);
    let connections = 0;
    const connector: LinkConnector = {
      async connect() {
        if (connections++ > 0) throw new GodwitError('GODWIT_CONNECT_FAILED', 'only once');
        return {
          control: destination,
          pageChannels: postcopy ? [new HostileRequests(decisions, destination.judge)] : [],
          peer: 'fuzz:',
        };
      },
    };
    const migration = migrate(vm, connector, {
      verify,
      postcopy,
      ...(postcopy && { policy: postcopyAtOnce }),
      progressIntervalMs: 0,
      clock: fastClock,
      // Short, since many inputs make a peer that says nothing: 5 or 10 ms by this clock.
      connectTimeoutMs: 1000,
      handshakeTimeoutMs: 1000,
      readinessTimeoutMs: 1000,
      switchoverTimeoutMs: 1000,
      verifyTimeoutMs: 1000,
      pauseLimitMs: 500,
      reconnectTimeoutMs: 0,
      settleTimeoutMs: 0,
    });
    const outcome = await mustSettle(
      migration.result.then(
        () => 'handed over' as const,
        (error: unknown) => error,
      ),
      'the migration',
    );
    memory.check();
    for (const [index, block] of memory.blocks.entries()) {
      if (Buffer.compare(block.view(0, block.byteLength), before[index] as Uint8Array) !== 0) {
        throw new Error(`the source's own RAM block ${index} was changed`);
      }
    }
    const { goUnasked, judge } = destination;
    judge.settled();
    if (lapse !== undefined) throw new Error(lapse);
    if (goUnasked !== undefined)
      throw new Error(`the guest was handed over for an attempt that is not ready: ${goUnasked}`);
    if (judge.lapses.length > 0) throw new Error(`the source broke the protocol: ${judge.lapses.join(', ')}`);
    if (outcome === 'handed over') {
      if (judge.illegal.length > 0) throw new Error(`handed over in spite of ${judge.illegal.join(', ')}`);
      if (running || !destination.gone) throw new Error(`completed: go ${destination.gone}, runs here ${running}`);
      return;
    }
    if (!GodwitError.is(outcome))
      throw new Error('it ended with something else than a GodwitError', { cause: outcome });
    if (outcome.code === 'GODWIT_INTERNAL' && !outcome.remote) {
      throw new Error('an error that nobody foresaw', { cause: outcome });
    }
    if (running === destination.gone) {
      throw new Error(`failed with ${outcome.code}: go ${destination.gone}, runs here ${running}`);
    }
  },
};
