import { setTimeout as sleep } from 'node:timers/promises';
import type { MigrationSummary } from '@godwit/core';
import { PAGE_SIZE } from '../guest/layout.js';
import { ConsoleLines } from './console-lines.js';
import type { DemoEvent, HostName, Result } from './demo-event.js';
import { DistributionCount } from './distribution.js';
import type { GuestSpec } from './guest-spec.js';
import { HeartbeatWatch } from './heartbeat-watch.js';
import { HostProcess } from './host-process.js';
import type { CheckReport, HostMessage, WatchedMessage } from './host-protocol.js';
import type { DemoOptions } from './options.js';

const HEARTBEAT_MS = 100;
/** Heartbeat period with `--round-trips`, in milliseconds: shorter, since each migration waits for two heartbeats. */
const ROUND_TRIP_HEARTBEAT_MS = 50;
/** Without a heartbeat for this long the guest counts as hung, in milliseconds. On a busy machine with an emulating KVM it is slow. */
const SILENCE_MS = 20_000;
/** The longest warm-up for a guest that writes more slowly than requested, in milliseconds. */
const LONGEST_WARM_UP_MS = 5000;
/** Codes of errors after which the guest does not run at the source: it has ended, or may run at the destination. */
const NOT_RUNNING: ReadonlySet<unknown> = new Set(['GODWIT_OWNERSHIP_UNKNOWN', 'GODWIT_GUEST_ENDED']);

/** The summary of one migration without its rounds, since those of a hundred migrations are kept. */
type Figures = Omit<MigrationSummary, 'rounds'>;

/** Why a run has ended early. */
class RunError extends Error {
  readonly code: string;

  constructor(code: string, message: string) {
    super(message);
    this.code = code;
  }
}

/**
 * One run of the demo, from the start of two hosts to the result:
 *
 * ```
 * boot at the source -> warm up -> migrate -> settle -> check from outside -> result
 *                                  ^    |
 *                                  +----+  there and back, with --round-trips
 * ```
 *
 * Events go to `emit` in order; the last one is `completed` or `failed`.
 */
export class DemoRun {
  readonly #options: DemoOptions;
  readonly #spec: GuestSpec;
  readonly #note: { readonly note?: string };
  readonly #emit: (event: DemoEvent) => void;
  readonly #onWatched: ((message: WatchedMessage) => void) | undefined;
  readonly #hosts: Readonly<Record<HostName, HostProcess>>;
  readonly #console: ConsoleLines;
  readonly #watch: HeartbeatWatch;
  /** Aborts every wait of the run, when the user has cancelled it or a defect was found. */
  readonly #over = new AbortController();
  readonly #summaries: Figures[] = [];
  readonly #distribution: DistributionCount;
  #rounds = 0;
  #gapMs = 0;
  #defects = 0;
  /** The host at which the guest runs. */
  #at: HostName = 'source';
  #migrating = false;
  #cancelled = false;

  constructor(
    options: DemoOptions,
    { kind, note }: { readonly kind: GuestSpec['kind']; readonly note?: string },
    emit: (event: DemoEvent) => void,
    onWatched?: (message: WatchedMessage) => void,
  ) {
    this.#onWatched = onWatched;
    this.#options = options;
    this.#distribution = new DistributionCount(options.downtimeLimitMs);
    this.#emit = emit;
    this.#note = note === undefined ? {} : { note };
    this.#spec = {
      kind,
      memoryBytes: options.memoryBytes,
      vcpus: options.vcpus,
      dirtyPagesPerSecond: options.dirtyPagesPerSecond,
      workingSetBytes: options.workingSetBytes,
      order: options.order,
      wholePages: options.wholePages,
      heartbeatMs: options.roundTrips > 0 ? ROUND_TRIP_HEARTBEAT_MS : HEARTBEAT_MS,
    };
    this.#watch = new HeartbeatWatch((message) => this.#defect(this.#at, message));
    this.#console = new ConsoleLines((line) => {
      const beat = this.#watch.see(line);
      emit({ event: 'console', ...line, ...(beat === undefined ? {} : { beat: beat.count }) });
    });
    this.#hosts = {
      source: new HostProcess('source', (message) => this.#hear('source', message)),
      destination: new HostProcess('destination', (message) => this.#hear('destination', message)),
    };
  }

  /** Cancels the run: a migration under way is cancelled, the guest is checked to run on, and the run ends. */
  cancel(): void {
    if (this.#cancelled) return;
    this.#cancelled = true;
    this.#emit({ event: 'cancelling' });
    this.#over.abort();
    if (this.#migrating) this.#hosts[this.#at].ask('cancel', null).catch(() => {});
  }

  /** Kills both processes at once. */
  kill(): void {
    for (const host of Object.values(this.#hosts)) host.kill();
  }

  /** Resolves with whether the run is verified. Never rejects, and leaves no process behind. */
  async run(): Promise<boolean> {
    try {
      this.#emit({ event: 'hosts', source: this.#hosts.source.pid, destination: this.#hosts.destination.pid });
      await this.#boot();
      await this.#warmUp();
      const hops = Math.max(1, this.#options.roundTrips * 2);
      for (let hop = 1; hop <= hops; hop++) await this.#hop(hop);
      await this.#settle();
      await this.#check();
      await this.#shutdown();
      const result = this.#result();
      this.#emit({ event: 'completed', ...result });
      return result.verified;
    } catch (error) {
      await this.#shutdown();
      const code = (error as { code?: unknown }).code;
      this.#emit({
        event: 'failed',
        code: typeof code === 'string' ? code : 'GODWIT_INTERNAL',
        message: error instanceof Error ? error.message : String(error),
      });
      return false;
    }
  }

  async #boot(): Promise<void> {
    this.#phase('booting');
    const { transport, downtimeLimitMs, maxBandwidth, roundTrips, verify } = this.#options;
    await this.#hosts.source.ask('boot', { spec: this.#spec, blindTracker: this.#options.blindTracker });
    const settings = { transport, downtimeLimitMs, maxBandwidth, roundTrips, verify };
    this.#emit({ event: 'guest', host: 'source', spec: this.#spec, settings, ...this.#note });
  }

  /**
   * Waits until the guest has written its working set once, or for a few seconds: pages that were never written are holes and would not
   * be sent.
   */
  async #warmUp(): Promise<void> {
    this.#phase('warming-up');
    const started = performance.now();
    const once = this.#spec.workingSetBytes / PAGE_SIZE;
    const { warmUpMs } = this.#options;
    await this.#watch.until(
      ({ writes }) => {
        const elapsedMs = performance.now() - started;
        return elapsedMs >= warmUpMs && (writes >= once || elapsedMs >= LONGEST_WARM_UP_MS);
      },
      warmUpMs + SILENCE_MS,
      this.#over.signal,
    );
    this.#throwIfOver();
    if (this.#watch.beats > 0) return;
    const code = 'GODWIT_GUEST_CRASHED';
    throw new RunError(code, `the guest printed no heartbeat within ${(warmUpMs + SILENCE_MS) / 1000} s of booting`);
  }

  async #hop(hop: number): Promise<void> {
    const from = this.#at;
    const to: HostName = from === 'source' ? 'destination' : 'source';
    const { transport, downtimeLimitMs, maxBandwidth, verify, record, blindTracker } = this.#options;
    const { maxRounds, policy, timeBudgetMs, pageChannels, workers, encodings } = this.#options;
    this.#phase('migrating');
    const address = await this.#hosts[to].ask('listen', {
      transport,
      threads: !workers ? 0 : pageChannels === 'auto' ? 1 : pageChannels,
      watched: this.#onWatched !== undefined,
      blindTracker,
    });
    this.#throwIfOver();
    const peer = address.transport === 'tcp' ? `tcp://${address.host}:${address.port}` : `unix:${address.path}`;
    this.#emit({ event: 'hop', hop, from, to, peer });
    const adopted = this.#hosts[to].ask('adopt', null);
    adopted.catch(() => {});
    this.#console.hold(to);
    this.#watch.expectGapAt(to);
    this.#migrating = true;
    let summary: MigrationSummary;
    try {
      summary = await this.#hosts[from].ask('migrate', {
        address,
        downtimeLimitMs,
        maxBandwidth,
        maxRounds,
        policy,
        timeBudgetMs,
        pageChannels,
        workers,
        encodings,
        verify,
        record,
        watched: this.#onWatched !== undefined,
      });
    } catch (error) {
      this.#console.release();
      if (!NOT_RUNNING.has((error as { code?: unknown }).code)) await this.#runsOn(from);
      throw error;
    } finally {
      this.#migrating = false;
    }
    this.#at = to;
    this.#console.release();
    const { rounds, ...figures } = summary;
    this.#summaries.push(figures);
    this.#distribution.migrated(figures);
    this.#rounds = Math.max(this.#rounds, rounds.length);
    this.#emit({ event: 'migrated', hop, ...summary });
    this.#emit({ event: 'received', hop, host: to, summary: await adopted });
    this.#emit({ event: 'memory', host: from, ...(await this.#hosts[from].ask('memory', null)) });
    await this.#hosts[from].ask('release', null);
    await this.#hearBeatsAt(to);
    const gapMs = this.#watch.gapMs ?? 0;
    this.#gapMs = Math.max(this.#gapMs, gapMs);
    this.#emit({ event: 'gap', hop, guestGapMs: gapMs });
    this.#throwIfOver();
  }

  async #hearBeatsAt(host: HostName): Promise<void> {
    if (this.#watch.gapMs !== undefined) return;
    const heard = await this.#watch.until(() => this.#watch.gapMs !== undefined, SILENCE_MS, this.#over.signal);
    if (!heard && !this.#over.signal.aborted) {
      throw new RunError(
        'GODWIT_GUEST_CRASHED',
        `the guest arrived at the ${host} and said nothing for ${SILENCE_MS / 1000} s`,
      );
    }
  }

  /** Lets the guest check itself for a while; a defect stops the guest and is a line on its console. */
  async #settle(): Promise<void> {
    this.#phase('settling');
    const { settleMs } = this.#options;
    if (settleMs === 0) return;
    const before = this.#watch.beats;
    await sleep(settleMs, undefined, { signal: this.#over.signal }).catch(() => {});
    this.#throwIfOver();
    // On a busy machine the next heartbeat may come late; after a crash it never comes.
    const heard = await this.#watch.until(() => this.#watch.beats > before, SILENCE_MS, this.#over.signal);
    this.#throwIfOver();
    if (!heard) this.#defect(this.#at, `no heartbeat in ${(settleMs + SILENCE_MS) / 1000} s`);
  }

  async #check(): Promise<CheckReport> {
    this.#phase('checking');
    const host = this.#at;
    const report = await this.#hosts[host].ask('check', null);
    this.#defects += report.defects.length;
    this.#emit({ event: 'checked', host, pages: report.pages, defects: report.defects });
    this.#emit({ event: 'memory', host, ...(await this.#hosts[host].ask('memory', null)) });
    return report;
  }

  /** Checks, after a migration that has failed, that the guest runs on at its host with intact memory. */
  async #runsOn(host: HostName): Promise<void> {
    const first = this.#watch.beats;
    const dead = new AbortController();
    void this.#hosts[host].exited.then(() => dead.abort());
    const heard = await this.#watch.until(() => this.#watch.beats >= first + 3, SILENCE_MS, dead.signal);
    const found = await this.#hosts[host].ask('check', null).then(
      ({ defects }) => defects,
      (error: unknown) => [error instanceof Error ? error.message : String(error)],
    );
    const defects = heard ? found : ['the guest is silent', ...found];
    this.#emit({ event: 'runs-on', host, beats: this.#watch.beats - first, defects });
  }

  async #shutdown(): Promise<void> {
    await Promise.all(Object.values(this.#hosts).map((host) => host.shutdown()));
  }

  #result(): Result {
    const sum = (pick: (figures: Figures) => number) =>
      this.#summaries.reduce((total, figures) => total + pick(figures), 0);
    const most = (pick: (figures: Figures) => number) => Math.max(...this.#summaries.map(pick));
    return {
      verified: this.#defects === 0 && this.#summaries.every(({ verified }) => verified),
      totalMs: sum(({ totalMs }) => totalMs),
      downtimeMs: most(({ downtimeMs }) => downtimeMs),
      verifyMs: most(({ verifyMs }) => verifyMs),
      guestGapMs: this.#gapMs,
      rounds: this.#rounds,
      wireBytes: sum(({ wireBytes }) => wireBytes),
      predictedDowntimeMs: most(({ predictedDowntimeMs }) => predictedDowntimeMs),
      migrations: this.#summaries.length,
      pagesCompared: sum(({ verifiedPages }) => verifiedPages),
      beats: this.#watch.beats,
      defects: this.#defects,
      distribution: this.#distribution.result(),
    };
  }

  #hear(host: HostName, message: HostMessage): void {
    if (message.type === 'console') this.#console.push(host, message.text);
    else if (message.type === 'defect') this.#defect(host, message.message);
    else if (message.type === 'watched') this.#onWatched?.(message);
    else if (message.type === 'migration') {
      this.#distribution.see(message.event.event);
      this.#emit(message.event);
    }
  }

  #defect(host: HostName, message: string): void {
    this.#defects++;
    this.#emit({ event: 'defect', host, message });
    this.#over.abort();
  }

  #phase(phase: 'booting' | 'warming-up' | 'migrating' | 'settling' | 'checking'): void {
    this.#emit({ event: 'phase', phase });
  }

  /** Throws when the user has cancelled the run, or a defect was found. */
  #throwIfOver(): void {
    if (this.#cancelled) throw new RunError('GODWIT_CANCELLED', 'cancelled');
    if (this.#defects > 0) throw new RunError('GODWIT_VERIFY_FAILED', `the guest reported ${this.#defects} defect(s)`);
  }
}
