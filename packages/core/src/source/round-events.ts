import type { RoundRecord } from '../round-record.js';
import type { SourceContext } from './source-context.js';

/** Most round records that are kept: a migration that never converges must not fill memory with them. */
const MOST_RECORDS = 1000;

/** Begins a round. Returns its number over the whole migration, which differs from the one on the wire after a restart. */
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
