/** `@godwit/observe`, and reports of recordings. */
export * from '@godwit/observe';
export { type RecordingReport, type ReportOptions, reportRecording } from './report/report-recording.js';
