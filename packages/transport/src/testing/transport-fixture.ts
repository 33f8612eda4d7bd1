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
  /** Makes a listener that no other one disturbs. */
  listen(): Promise<Listener>;
  /** Connects to a listener that `listen` made. */
  connect(listener: Listener, signal?: AbortSignal): Promise<ByteStream>;
  /** Whether a peer can tell an abort from a clean end (a TCP reset; a UNIX socket just ends). */
  readonly tellsAbort: boolean;
  /** The most bytes that the carrier may hold for a reader that does not read. */
  readonly mostHeld: number;
  readonly capabilities?: TransportCapabilities;
}

/** Where a transport differs for good reasons. No test is left out: each checks what is promised instead. */
export interface TransportCapabilities {
  /** Whether `connect` fails when nobody listens. If not, the first read or write must. Default: true. */
  readonly tellsRefusal?: boolean;
  /** How many streams are open together, for carriers whose streams cost much (a process each). Default: 24. */
  readonly streamsAtOnce?: number;
  /** How many streams come and go one after the other. Default: 1 000. */
  readonly shortConnections?: number;
}
