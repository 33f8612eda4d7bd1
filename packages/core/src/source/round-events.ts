import type { RoundRecord } from '../round-record.js';
import type { SourceContext } from './source-context.js';

/** Round records kept: a migration that never converges must not fill memory with them. */
const MOST_RECORDS = 1000;

/** A round is about to be sent: counted over the whole migration, whatever the destination counts. Returns its number. */
export function roundStarted({ meter, emit }: SourceContext, dirtyPages: number): number {
  const round = meter.roundStarted(dirtyPages);
  emit({ type: 'round-start', round, dirtyPages });
  return round;
}

export function roundEnded({ records, meter, emit }: SourceContext, record: RoundRecord): void {
  records.push(record);
  if (records.length > MOST_RECORDS) records.shift();
  meter.roundEnded(record);
  emit({ type: 'round', round: record });
}
