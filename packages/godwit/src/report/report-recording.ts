import { report } from '@godwit/observe';
import type { ReadableBytes } from '@godwit/transport';
import { inspectRecording } from '../inspect/inspect-recording.js';
import { RecordedMigration } from './recorded-migration.js';

export interface RecordingReport {
  /** One HTML file, which needs nothing else. */
  readonly html: string;
  /** Why the recording is not whole; undefined when it is. The report shows what comes before. */
  readonly problem: string | undefined;
}

/**
 * Makes a report of a recorded migration: what `godwit report` writes. The file may be of any size and say anything: memory is bounded, and
 * what it says is text in the report.
 *
 * @example
 * const { html } = await reportRecording(createReadStream('migration.godwit'));
 */
export async function reportRecording(
  bytes: ReadableBytes,
  options: { readonly title?: string } = {},
): Promise<RecordingReport> {
  const migration = new RecordedMigration(options.title ?? 'A recorded migration');
  let problem: string | undefined;
  for await (const finding of inspectRecording(bytes, { frames: true })) {
    migration.take(finding);
    if (finding.event === 'broken' || finding.event === 'violation') {
      problem ??= `at byte ${finding.offset}: ${finding.message}`;
    }
  }
  return { html: report(migration.model()), problem };
}
