/**
 * `@godwit/workers/unstable`: parts of the threads that save a guest while it runs, or let it run before its memory is whole. **Everything
 * here may change in any version.**
 */
export { markMissing, type PageMarker } from './missing/mark-missing.js';
export { CopyBuffer, type CopyBufferParts } from './protect/copy-buffer.js';
export { sharedBitmaps } from './protect/owed-pages.js';
export { PageSaver } from './protect/page-saver.js';
export { ControlWord, Figure, Mode, type ProtectedParts, type SharedBitmaps } from './protect/protect-messages.js';
export { WriteStreams } from './protect/write-streams.js';
