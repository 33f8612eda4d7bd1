import type { Decision, RoundRecord } from '@godwit/core';
import type { Simulation } from '@godwit/core/simulation';

/** The number of rounds of a long migration that are shown from its beginning and from its end. */
const SHOWN = { first: 12, last: 8 } as const;

/** A simulation with the name of its policy; `undefined` for the engine's default policy. */
export interface NamedSimulation {
  readonly name: string | undefined;
  readonly simulation: Simulation;
}

/** The rounds of one simulation as a table, and whether it converges. */
export function simulationText({ name, simulation }: NamedSimulation): string {
  const { rounds, pageSize } = simulation;
  const left = rounds.length - SHOWN.first - SHOWN.last;
  const shown = left > 1 ? [...rounds.slice(0, SHOWN.first), undefined, ...rounds.slice(-SHOWN.last)] : rounds;
  const rows = shown.map((round) => (round === undefined ? [`(${left} more)`] : roundRow(round, pageSize)));
  const table = tableOf(['round', 'owed', 'sent', 'time', 'dirtied', 'predicted', 'decision'], rows);
  return [...(name === undefined ? [] : [`policy ${name}`, '']), ...table, '', verdict(simulation)].join('\n');
}

/** Several simulations side by side. */
export function comparisonText(all: readonly NamedSimulation[]): string {
  const byPostcopy = all.some(({ simulation }) => simulation.postcopy !== undefined);
  const rows = all.map(({ name = 'default', simulation }) => {
    const { outcome, totalMs, downtimeMs, rounds, throttle, postcopy } = simulation;
    const throttled = Math.max(0, ...throttle.map(({ fraction }) => fraction));
    return [
      name,
      outcome,
      duration(totalMs),
      downtimeMs === undefined ? '-' : duration(downtimeMs),
      String(rounds.length),
      size(simulation.summary?.wireBytes ?? rounds.reduce((sum, { wireBytes }) => sum + wireBytes, 0)),
      `${Math.round(throttled * 100)} %`,
      ...(byPostcopy ? [postcopy === undefined ? '-' : duration(postcopy.ms)] : []),
    ];
  });
  const head = ['policy', 'outcome', 'total', 'downtime', 'rounds', 'sent', 'throttle'];
  return tableOf(byPostcopy ? [...head, 'post-copy'] : head, rows).join('\n');
}

function roundRow(record: RoundRecord, pageSize: number): string[] {
  const { round, phase, dirtyPages, wireBytes, totalMs, newlyDirtyPages, predictedDowntimeMs, decision } = record;
  const paused = phase === 'stop-and-copy';
  return [
    paused ? `${round} paused` : String(round),
    size(dirtyPages * pageSize),
    size(wireBytes),
    duration(totalMs),
    paused ? '' : size(newlyDirtyPages * pageSize),
    paused ? '' : duration(predictedDowntimeMs),
    paused ? '' : decisionText(decision),
  ];
}

function decisionText(decision: Decision): string {
  if (decision.action === 'throttle') return `throttle ${Math.round(decision.fraction * 100)} %`;
  if (decision.action === 'switchover' && decision.force === true) return 'switchover, forced';
  return decision.action;
}

function verdict(simulation: Simulation): string {
  const { outcome, totalMs, downtimeMs = 0, downtimeLimitMs, error, pauses, warnings, postcopy } = simulation;
  const limit = `the limit is ${duration(downtimeLimitMs)}`;
  const pausedAfter = duration(pauses.at(-1)?.fromMs ?? totalMs);
  const missing = postcopy === undefined ? '' : postcopyText(postcopy);
  switch (outcome) {
    case 'converged':
      return `It converges: the guest is paused after ${pausedAfter}, for ${duration(downtimeMs)} (${limit}).${missing}`;
    case 'moved':
      return `It does not converge: the guest is moved after ${pausedAfter} all the same, and is down for ${duration(downtimeMs)} (${limit}).${missing}`;
    case 'failed':
      return `It does not converge: ${error?.code} after ${duration(totalMs)}: ${error?.message}.`;
    case 'stopped':
      return [`It does not converge: after ${duration(totalMs)}, ${error?.message}.`, ...warnings].join('\n');
  }
}

/**
 * The memory that is missing at the destination after the switchover to post-copy, and how long the guest waits for it.
 */
function postcopyText({ bytes, ms, faults, blockedMs }: NonNullable<Simulation['postcopy']>): string {
  return (
    `\nOf its memory, ${size(bytes)} are then missing at the destination, and come within ${duration(ms)}: the guest waits for ` +
    `${faults} pages, ${duration(blockedMs)} in all.`
  );
}

/** The changes with which the migration would converge. */
export function suggestionText({ wouldConverge }: Simulation): string {
  if (wouldConverge.length === 0) return 'No single change, of up to 64 times, would make it converge.';
  return [
    'Each of these would make it converge:',
    ...wouldConverge.map(
      ({ text, totalMs, downtimeMs }) => `  ${text} (after ${duration(totalMs)}, down for ${duration(downtimeMs)})`,
    ),
  ].join('\n');
}

/** Rows under a head, in columns; the first and the last column on the left, the others on the right. */
function tableOf(head: readonly string[], rows: readonly (readonly string[])[]): string[] {
  const all = [head, ...rows];
  const widths = head.map((_, i) => Math.max(...all.map((row) => row[i]?.length ?? 0)));
  const last = head.length - 1;
  return all.map((row) =>
    row
      .map((cell, i) => (i === 0 || i === last ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0)))
      .join('  ')
      .trimEnd(),
  );
}

export function duration(ms: number): string {
  if (ms < 1000) return `${ms.toFixed(ms < 10 ? 1 : 0)} ms`;
  return ms < 600_000 ? `${(ms / 1000).toFixed(1)} s` : `${(ms / 60_000).toFixed(1)} min`;
}

export function size(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
  let value = bytes;
  let unit = 0;
  for (; value >= 1024 && unit < units.length - 1; unit++) value /= 1024;
  return `${unit === 0 || value >= 100 ? value.toFixed(0) : value.toFixed(1)} ${units[unit]}`;
}
