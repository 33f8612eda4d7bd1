import { checkOptions } from '@godwit/core';
import { report } from '@godwit/observe';
import type { ReadableBytes } from '@godwit/transport';
import { inspectRecording } from '../inspect/inspect-recording.js';
import { RecordedMigration } from './recorded-migration.js';

/** A recorded migration as one page of HTML. */
export interface RecordingReport {
  /** The report: one HTML file, which needs no other file. */
  readonly html: string;
  /** Why the recording is not complete; undefined if it is. The report shows what was read up to the problem. */
  readonly problem: string | undefined;
}

/** The form of a report. */
export interface ReportOptions {
  /** The heading. Default: `A recorded migration`. */
  readonly title?: string;
}

/**
 * Makes a report of a recorded migration: what `godwit report` writes. The file may have any size and any contents: memory is bounded, and
 * the report treats the contents as text.
 *
 * @example
 * const { html } = await reportRecording(createReadStream('migration.godwit'));
 */
export async function reportRecording(bytes: ReadableBytes, options: ReportOptions = {}): Promise<RecordingReport> {
  checkOptions<ReportOptions>('reportRecording', options, { title: true });
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
