import type { VmmStatus } from '../control/control-protocol.js';
import { faultsText, latencyText } from '../demo/faults-text.js';
import { formatBytes, formatCount } from '../demo/quantity.js';
import { progressText } from './progress-text.js';

/** The status of a VMM in one line. */
export function statusLine(status: VmmStatus): string {
  const { guest, machine, listening, migration, incoming } = status;
  const size = machine === undefined ? '' : `, ${formatBytes(machine.memoryBytes)}, ${machine.vcpus} vCPU(s)`;
  if (guest === 'empty') {
    if (incoming !== undefined && incoming.state !== 'none') return `a guest arrives at ${listening}`;
    return listening === undefined ? 'no guest yet' : `awaits a guest at ${listening}`;
  }
  if (guest === 'moved' && migration?.state.startsWith('postcopy-')) {
    return `the guest runs at ${migration.to}, where pages of it are missing`;
  }
  const leaving = migration !== undefined && migration.state !== 'failed' && migration.state !== 'cancelled';
  return `guest ${guest}${size}${leaving ? `, moving to ${migration.to}` : ''}`;
}

/** The status of a VMM in several lines. */
export function statusText(status: VmmStatus): readonly string[] {
  const { pid, machine, migration, incoming } = status;
  const lines = [`process ${pid}: ${statusLine(status)}`];
  if (machine !== undefined) {
    const kind = machine.kind === 'kvm' ? 'on KVM' : 'without KVM';
    const balloon = machine.balloonBytes ? `, ${formatBytes(machine.balloonBytes)} in the balloon` : '';
    lines.push(
      `memory: ${formatBytes(machine.allocatedBytes)} of ${formatBytes(machine.memoryBytes)} in use, ${kind}${balloon}`,
    );
  }
  if (migration !== undefined) {
    const { to, state, progress, lastRound, error, ownership } = migration;
    const interval = lastRound?.predictedDowntimeRangeMs;
    lines.push(`migration to ${to}: ${state}, the guest is ${ownership}; ${progressText(progress, interval)}`);
    if (error !== undefined) lines.push(`error: ${error.code}: ${error.message}`);
  }
  if (incoming !== undefined && incoming.state !== 'none') {
    const { raw, delta, compressed } = incoming.pages;
    lines.push(
      `arrival: ${incoming.state}, the guest is ${incoming.ownership}; round ${incoming.round}, ` +
        `${formatCount(raw + delta + compressed)} pages, ${formatBytes(incoming.wireBytes)}`,
    );
    const { faults, error } = incoming;
    if (faults !== undefined) {
      lines.push(faultsText(faults));
      const latency = latencyText(faults);
      if (latency !== '') lines.push(`faults: ${latency}`);
    }
    if (error !== undefined) lines.push(`error: ${error.code}: ${error.message}`);
  }
  return lines;
}
