/**
 * The engine and its transports in one import. What needs Linux is in `godwit/linux`, so that this one loads everywhere.
 */
export * from '@godwit/core';
export * from '@godwit/transport';
export type { AttemptEnd, Finding, FrameTally, InspectionSummary, Outcome, PagesBySort } from './inspect/finding.js';
export { type InspectOptions, inspectRecording } from './inspect/inspect-recording.js';
export { inspectSnapshot } from './inspect/inspect-snapshot.js';
