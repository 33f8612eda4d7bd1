import { type Profiler, Session } from 'node:inspector/promises';

/** Files whose coverage counts: the built packages, without the fuzzer's own code. */
const COUNTED = /\/packages\/[^/]+\/dist\/(?!testing\/)/;

/**
 * The blocks of the engine that ran, and the blocks that did not run in a function that did, as V8 counts them. Each
 * query resets V8's counts, and takes one or two milliseconds.
 */
export class Coverage {
  readonly #session = new Session();

  async start(): Promise<void> {
    this.#session.connect();
    await this.#session.post('Profiler.enable');
    await this.#session.post('Profiler.startPreciseCoverage', { callCount: false, detailed: true });
  }

  /** One key for each block that ran, or that its function skipped, since the last call. */
  async take(): Promise<readonly string[]> {
    const { result } = (await this.#session.post(
      'Profiler.takePreciseCoverage',
    )) as Profiler.TakePreciseCoverageReturnType;
    const keys: string[] = [];
    for (const { scriptId, url, functions } of result) {
      if (!COUNTED.test(url)) continue;
      for (const { ranges } of functions) {
        if (ranges[0]?.count === 0) continue;
        for (const { startOffset, endOffset, count } of ranges) {
          keys.push(`${scriptId}:${startOffset}-${endOffset}${count > 0 ? '' : '!'}`);
        }
      }
    }
    return keys;
  }

  async stop(): Promise<void> {
    await this.#session.post('Profiler.stopPreciseCoverage');
    this.#session.disconnect();
  }
}
