import type { ByteStream, Listener } from '../stream/byte-stream.js';

/** What the suite needs from a test runner: those of Jest, Vitest, Mocha and node:test all fit. */
export interface SuiteRunner {
  /** Groups tests under a name. */
  describe(name: string, body: () => void): unknown;
  /** Adds a test, which fails when its promise rejects. */
  test(name: string, body: () => Promise<void>): unknown;
}

/** One transport under test. */
export interface TransportFixture {
  /** Makes a listener that is independent of all others. */
  listen(): Promise<Listener>;
  /** Connects to a listener that `listen` made. */
  connect(listener: Listener, signal?: AbortSignal): Promise<ByteStream>;
  /** Whether a peer can tell an abort from a clean end (a TCP reset; a UNIX socket just ends). */
  readonly tellsAbort: boolean;
  /** The most bytes that the carrier may hold for a reader that does not read. */
  readonly mostHeld: number;
  readonly capabilities?: TransportCapabilities;
}

/**
 * Properties in which a transport may differ for good reasons. No test is left out: each checks the guarantee that
 * applies instead.
 */
export interface TransportCapabilities {
  /** Whether `connect` fails when nobody listens. If not, the first read or write must. Default: true. */
  readonly tellsRefusal?: boolean;
  /**
   * The number of streams that are open together; fewer for carriers whose streams are expensive (a process each).
   * Default: 24.
   */
  readonly streamsAtOnce?: number;
  /** The number of streams that are opened and closed one after the other. Default: 1 000. */
  readonly shortConnections?: number;
}
