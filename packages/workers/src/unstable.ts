/** `@godwit/workers/unstable`: parts of the threads that save a guest while it runs. **Everything here may change in any version.** */
export { CopyBuffer, type CopyBufferParts } from './protect/copy-buffer.js';
export { WriteStreams } from './protect/write-streams.js';
