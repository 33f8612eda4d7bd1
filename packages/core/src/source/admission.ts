import { GodwitError } from '../errors.js';
import { describeDevices } from '../estimate/describe-devices.js';
import { sampleGuest } from '../estimate/sample-guest.js';
import type { WelcomeFrame } from '../protocol/frame.js';
import { probeLink } from './probe-link.js';
import type { SourceConnection } from './source-connection.js';
import type { SourceContext } from './source-context.js';

/**
 * Refuses a migration before its first page moves: watches the guest, measures the link, and throws `GODWIT_ESTIMATE_EXCEEDED` when the
 * estimate exceeds `refuseAbove`, or is that the migration would not converge.
 */
export async function admit(
  { vm, options, session, tracker, devices, forecast }: SourceContext,
  connection: SourceConnection,
  welcome: WelcomeFrame,
): Promise<void> {
  const { refuseAbove, clock } = options;
  if (refuseAbove === undefined || forecast === undefined) return;
  const link = await probeLink(connection, welcome, clock);
  const { sampleMs } = refuseAbove;
  const sample = await sampleGuest(vm.memory, tracker, { clock, sampleMs, signal: session.signal });
  const sizes = await devices.reports.ask(session.signal);
  const described = describeDevices(vm.devices, sizes);
  const { converges, totalMs, downtimeMs, reason } = await forecast(sample, described, link, options);
  session.signal.throwIfAborted();
  const exceeded = [
    ...(converges ? [] : [`it would not converge (${reason ?? 'nobody knows why'})`]),
    ...above('the guest would be down for', downtimeMs.expected, 'downtimeMs', refuseAbove.downtimeMs),
    ...above('it would take', totalMs.expected, 'totalMs', refuseAbove.totalMs),
  ];
  if (exceeded.length === 0) return;
  throw new GodwitError(
    'GODWIT_ESTIMATE_EXCEEDED',
    `the migration was refused before it began: ${exceeded.join('; ')}. The guest was watched for ${sample.sampledMs.toFixed(0)} ms, ` +
      `and the link carries ${(link.bytesPerSecond / 1e6).toFixed(1)} MB/s. estimate() says what would do`,
  );
}

function above(what: string, ms: number, name: string, limit: number | undefined): string[] {
  if (limit === undefined || ms <= limit) return [];
  return [`${what} ${ms.toFixed(0)} ms, and refuseAbove.${name} is ${limit} ms`];
}
