/** `@godwit/observe`, and reports of recordings. */
export * from '@godwit/observe';
export { type RecordingReport, reportRecording } from './report/report-recording.js';
