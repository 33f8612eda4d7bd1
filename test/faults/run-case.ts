import {
  type ConvergencePolicy,
  firstOpinion,
  type IncomingMigration,
  type Migration,
  migrate,
  postcopyAfterRound,
  receive,
  withinDowntimeLimit,
} from '@godwit/core';
import { connectTo, listenOn, tcp } from '@godwit/transport';
import { type Fault, faulty } from '@godwit/transport/testing';
import { faultThreads } from '@godwit/workers';
import type { Observable } from 'rxjs';
import type { LiveGuest } from '../guest/live-guest.js';
import type { CaseResult } from './case-messages.js';
import { type ByteCount, counting } from './counting.js';
import type { FaultCase } from './fault-case.js';
import { type Course, judge, type Outcome } from './judge.js';
import { overrunning } from './overrunning.js';
import { RunnerWatch } from './runner-watch.js';

/** Short time limits, so that faults that only a timeout notices do not take half a minute each. */
export const TIMEOUTS = {
  keepaliveMs: 100,
  silenceTimeoutMs: 1500,
  handshakeTimeoutMs: 5000,
  reconnectTimeoutMs: 20_000,
  settleTimeoutMs: 20_000,
} as const;

/** The same for `migrate`. The pause limit is long, since several cases share the processors: they test faults and not this limit. */
export const SOURCE_TIMEOUTS = { ...TIMEOUTS, pauseLimitMs: 10_000 } as const;

/**
 * How long a destination waits for the source to reconnect, in milliseconds. Every case in which the source gives up takes this long.
 * It is much longer than the time after which a silent link counts as lost.
 */
const DESTINATION_RECONNECT_MS = 5000;

/** Pause limit in the cases with `backs`, in milliseconds. */
const OVERRUN_MS = 50;

/** By post-copy: bytes per second in the background, so that pages are missing for a while. */
export const POSTCOPY_BANDWIDTH = 16 * 2 ** 20;

/** A case that takes longer hangs. Milliseconds. */
const HANGS_MS = 90_000;

/** The result of a case with a fault in the link. */
export interface FaultResult extends CaseResult {
  /** Bytes of each stream of the first connection. */
  readonly bytes: readonly Readonly<ByteCount>[];
  /** What the control stream had carried when the pages that are missing began to follow; by post-copy only. */
  readonly precopied: Readonly<ByteCount> | undefined;
}

/** A policy that sends at least this many rounds and then decides as the default policy. */
export function atLeastRounds(rounds: number): ConvergencePolicy {
  const more: ConvergencePolicy = ({ outcome }) =>
    outcome.round < rounds ? { action: 'continue', reason: `the case asks for ${rounds} rounds` } : undefined;
  return firstOpinion(more, withinDowntimeLimit);
}

/** Migrates the guest with one fault and checks both sides afterwards. The guest runs when this resolves. */
export async function runCase(guest: LiveGuest, fault: FaultCase, seed: number): Promise<FaultResult> {
  const source = guest.machine;
  const links = await listenOn(tcp({ host: '127.0.0.1', port: 0 }));
  const problems: string[] = [];
  let struck = false;
  const bytes: ByteCount[] = [];
  let precopied: ByteCount | undefined;
  const watch = new RunnerWatch(source);
  const faults = fault.postcopy ? faultThreads() : undefined;
  try {
    const incoming = receive(links, {
      ...TIMEOUTS,
      ...(faults === undefined ? {} : { faults }),
      reconnectTimeoutMs: DESTINATION_RECONNECT_MS,
      prepare: async (description) => watch.also(await guest.blank(description)),
    });
    const { kind, direction, stream, at } = fault;
    const planned = { direction, at, stream };
    const transport = faulty(tcp({ host: '127.0.0.1', port: links.listener.port }), {
      faults: [plannedFault(kind, planned)],
      seed,
      onFault: () => {
        struck = true;
      },
    });
    const { backs = 0 } = fault;
    const slow = backs > 0 ? overrunning(source, backs) : undefined;
    const migration = migrate(slow?.vm ?? source, connectTo(counting(transport, bytes)), {
      ...SOURCE_TIMEOUTS,
      ...(slow === undefined ? {} : { pauseLimitMs: OVERRUN_MS }),
      description: source.description,
      checksum: fault.checksum,
      pageChannels: fault.pageChannels,
      ...(fault.postcopy
        ? { postcopy: true, postcopyBandwidth: POSTCOPY_BANDWIDTH, policy: postcopyAfterRound(fault.rounds) }
        : { verify: true, policy: atLeastRounds(fault.rounds) }),
    });
    slow?.hurry(migration);
    migration.subscribe((event) => {
      if (event.type === 'state' && event.state === 'postcopy-device') precopied ??= { ...(bytes[0] as ByteCount) };
    });
    const course = follow(migration, 'the source', problems);
    follow(incoming, 'the destination', problems);
    const [here, there] = await settled(migration, incoming, problems);
    const ending = await judge(guest, source, here, there, { ...course, backs, problems });
    problems.push(...watch.problems, ...(await guest.examine()));
    return { struck, ending, problems, bytes, precopied };
  } finally {
    watch.end();
    await Promise.all([links.close(), faults?.close()]);
  }
}

/** Completes the fault. A trickle ends after a thousand bytes: a whole migration byte by byte would take minutes. */
function plannedFault(kind: FaultCase['kind'], place: Pick<Fault, 'direction' | 'at' | 'stream'>): Fault {
  if (kind === 'delay') return { ...place, kind, milliseconds: 50 };
  if (kind === 'trickle') return { ...place, kind, bytes: 1000 };
  return { ...place, kind };
}

async function settled(migration: Migration, incoming: IncomingMigration, problems: string[]) {
  let here: Outcome<unknown>;
  let there: Outcome<{ readonly vm: unknown }>;
  const both = Promise.all([
    Promise.allSettled([migration.result]).then(([one]) => {
      here = one;
    }),
    Promise.allSettled([incoming.result]).then(([one]) => {
      there = one;
    }),
  ]);
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, HANGS_MS);
  });
  // When the source has failed before it reached the destination, the destination's promise never settles.
  const unheard = migration.result.then(
    () => both,
    () => (incoming.state === 'none' ? undefined : both),
  );
  await Promise.race([both, late, unheard]);
  clearTimeout(timer);
  // The link was lost before its first frame: the destination still waits for a source.
  if (there === undefined && incoming.state === 'none') {
    incoming.cancel();
    await incoming.result.catch(() => undefined);
  } else if (there === undefined) {
    problems.push(`the destination hangs in state "${incoming.state}"`);
  }
  if (here === undefined) problems.push(`the source hangs in state "${migration.state}"`);
  if (here === undefined) migration.cancel();
  if (there === undefined) incoming.cancel();
  return [here, there] as const;
}

/** Records the events of one side. Adds a problem if they do not complete by the time its promise settles. */
function follow(
  role: Observable<{ readonly type: string; readonly state?: string }> & { readonly result: Promise<unknown> },
  name: string,
  problems: string[],
): Course {
  const states = new Set<string>();
  let ended = false;
  let wentBack = 0;
  role.subscribe({
    next: (event) => {
      if (ended) problems.push(`an event of ${name} came after the end: ${event.type}`);
      if (event.type === 'state' && event.state !== undefined) states.add(event.state);
      if (event.type === 'went-back') wentBack++;
    },
    error: () => problems.push(`the events of ${name} ended with an error`),
    complete: () => {
      if (ended) problems.push(`the events of ${name} ended twice`);
      ended = true;
    },
  });
  const check = () => {
    if (!ended) problems.push(`the result of ${name} settled, its events did not end`);
  };
  role.result.then(check, check);
  return { states, wentBack: () => wentBack };
}
