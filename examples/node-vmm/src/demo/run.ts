import { setTimeout as sleep } from 'node:timers/promises';
import type { MigrationState, MigrationSummary } from '@godwit/core';
import { PAGE_SIZE } from '../guest/layout.js';
import type { GuestSpec } from '../vmm/guest-spec.js';
import type { CheckReport } from '../vmm/hosted-guest.js';
import { ConsoleLines } from './console-lines.js';
import type { DemoEvent, HostName, Result } from './demo-event.js';
import { DistributionCount } from './distribution.js';
import { HeartbeatWatch } from './heartbeat-watch.js';
import { lossOf } from './host-loss.js';
import { HostProcess } from './host-process.js';
import type { HostMessage, WatchedMessage } from './host-protocol.js';
import type { DemoOptions } from './options.js';
import { type Figures, resultOf } from './result.js';
import { RunRequests } from './run-requests.js';
import { isEncrypted, throwAwayCredentials } from './transport-choice.js';

const HEARTBEAT_MS = 100;
/** Heartbeat period with `--round-trips`, in milliseconds: shorter, since each migration waits for two heartbeats. */
const ROUND_TRIP_HEARTBEAT_MS = 50;
/**
 * Without a heartbeat for this long the guest counts as hung, in milliseconds. On a busy machine with an emulating KVM the guest is
 * slow.
 */
const SILENCE_MS = 20_000;
/** The longest warm-up for a guest that writes more slowly than requested, in milliseconds. */
const LONGEST_WARM_UP_MS = 5000;
/** Codes of errors after which the guest does not run at the source: it has ended, or may run at the destination. */
const NOT_RUNNING: ReadonlySet<unknown> = new Set(['GODWIT_OWNERSHIP_UNKNOWN', 'GODWIT_GUEST_ENDED']);

/** The reason why a run has ended early. */
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
  readonly #requests: RunRequests;
  /** The address at which the destination of the next migration already listens. */
  #listening: string | undefined;
  #rounds = 0;
  #gapMs = 0;
  #defects = 0;
  /** The host at which the guest runs. */
  #at: HostName = 'source';
  /** The destination of the migration under way. */
  #to: HostName = 'destination';
  #migrating = false;
  #state: MigrationState = 'none';
  #cancelled = false;
  /** Processes that have ended unexpectedly, and the error when the run cannot go on without one of them. */
  readonly #gone = new Set<HostName>();
  #lost: RunError | undefined;
  #ending = false;

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
    const credentials = isEncrypted(options.transport) ? throwAwayCredentials() : undefined;
    this.#requests = new RunRequests(options, credentials, onWatched !== undefined);
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
    for (const name of ['source', 'destination'] as const) {
      void this.#hosts[name].exited.then(() => this.#hostGone(name));
    }
  }

  /** Whether more migrations follow. */
  get #hopsLeft(): boolean {
    return this.#summaries.length < Math.max(1, this.#options.roundTrips * 2);
  }

  /** Cancels the run: a migration under way is cancelled, the run checks that the guest runs on, and ends. */
  cancel(): void {
    if (this.#cancelled) return;
    this.#cancelled = true;
    this.#emit({ event: 'cancelling', late: this.#isFollowed });
    this.#over.abort();
    this.#cancelMigration('interrupted');
  }

  #cancelMigration(reason: string): void {
    if (this.#migrating) this.#hosts[this.#at].ask('cancel', { reason }).catch(() => {});
  }

  /** Emits at once that a process has ended, and what that means for the guest. */
  #hostGone(host: HostName): void {
    if (this.#ending) return;
    this.#gone.add(host);
    const handing = ['device', 'postcopy-device', 'completed'].includes(this.#state);
    const moving = this.#isFollowed ? 'following' : handing ? 'between' : 'moving';
    const course = this.#migrating ? moving : this.#hopsLeft ? 'before' : 'after';
    const how = this.#hosts[host].gone().message;
    const { message, goesOn } = lossOf({ host, how, guestAt: this.#at, course, isNeeded: this.#hopsLeft });
    this.#emit({ event: 'host-gone', host, message });
    if (goesOn) return;
    this.#lost = new RunError('GODWIT_LINK_LOST', message);
    this.#over.abort();
    if (host !== this.#at) this.#cancelMigration(`the ${host} is gone`);
  }

  /** Whether the guest runs at its destination, and pages are missing there. */
  get #isFollowed(): boolean {
    return this.#migrating && ['postcopy-active', 'postcopy-paused', 'postcopy-recover'].includes(this.#state);
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
      if (this.#lost !== undefined) throw this.#lost;
      const result = this.#result();
      this.#emit({ event: 'completed', ...result });
      return result.verified;
    } catch (failure) {
      await this.#shutdown();
      const error = this.#lost ?? failure;
      const code = (error as { code?: unknown }).code;
      this.#emit({
        event: 'failed',
        code: typeof code === 'string' ? code : 'GODWIT_INTERNAL',
        message: error instanceof Error ? error.message : String(error),
        // The figures of completed migrations are reported although the run has failed.
        ...(this.#summaries.length > 0 && { figures: { ...this.#result(), verified: false } }),
      });
      return false;
    }
  }

  async #boot(): Promise<void> {
    this.#phase('booting');
    const { transport, downtimeLimitMs, maxBandwidth, roundTrips, verify } = this.#options;
    const { postcopy, postcopyBandwidth, blindTracker, dirtyRing } = this.#options;
    // The destination listens first, so that an unusable address is reported before a guest is booted.
    this.#listening = await this.#listenAt('destination');
    await this.#hosts.source.ask('boot', { spec: this.#spec, blindTracker, dirtyRing });
    const moves = { downtimeLimitMs, maxBandwidth, postcopy, postcopyBandwidth, roundTrips, verify };
    const settings = { transport: transport.kind, ...moves };
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
    this.#phase('migrating');
    const address = this.#listening ?? (await this.#listenAt(to));
    this.#listening = undefined;
    this.#throwIfOver();
    this.#emit({ event: 'hop', hop, from, to, peer: address });
    const adopted = this.#hosts[to].ask('adopt', null);
    adopted.catch(() => {});
    this.#console.hold(to);
    this.#watch.expectGapAt(to);
    this.#migrating = true;
    this.#to = to;
    let summary: MigrationSummary;
    try {
      summary = await this.#hosts[from].ask('migrate', this.#requests.migrate(address));
    } catch (error) {
      this.#console.release();
      if (this.#gone.has(from)) await this.#whereIsIt(to, adopted);
      else if (!NOT_RUNNING.has((error as { code?: unknown }).code)) await this.#runsOn(from);
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
    await this.#release(from);
    await this.#hearBeatsAt(to);
    const gapMs = this.#watch.gapMs ?? 0;
    this.#gapMs = Math.max(this.#gapMs, gapMs);
    this.#emit({ event: 'gap', hop, guestGapMs: gapMs });
    this.#throwIfOver();
  }

  /** Frees the guest that has left a host. The end of the process frees the guest too, so that its error is ignored. */
  async #release(from: HostName): Promise<void> {
    try {
      this.#emit({ event: 'memory', host: from, ...(await this.#hosts[from].ask('memory', null)) });
      await this.#hosts[from].ask('release', null);
    } catch (error) {
      if (!this.#gone.has(from)) throw error;
    }
  }

  /**
   * After the death of a source, adds to the reason whether the guest runs at the destination: only the destination knows whether it
   * was given the guest.
   */
  async #whereIsIt(to: HostName, adopted: Promise<unknown>): Promise<void> {
    if (this.#lost === undefined) return;
    const found = await adopted.then(
      () => `the guest runs at the ${to}`,
      () => `the ${to} was not given it`,
    );
    this.#lost = new RunError(this.#lost.code, `${this.#lost.message}: ${found}`);
  }

  /** Makes a host listen; resolves with the address. */
  #listenAt(host: HostName): Promise<string> {
    return this.#hosts[host].ask('listen', this.#requests.listen());
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
    this.#ending = true;
    await Promise.all(Object.values(this.#hosts).map((host) => host.shutdown()));
  }

  #result(): Result {
    return resultOf(this.#summaries, {
      guestGapMs: Math.max(this.#gapMs, this.#watch.gapMs ?? 0),
      rounds: this.#rounds,
      beats: this.#watch.beats,
      defects: this.#defects,
      distribution: this.#distribution.result(),
      compares: !this.#options.postcopy,
    });
  }

  #hear(host: HostName, message: HostMessage): void {
    if (message.type === 'console') this.#console.push(host, message.text);
    else if (message.type === 'defect') this.#defect(host, message.message);
    else if (message.type === 'watched') this.#onWatched?.(message);
    else if (message.type === 'migration') {
      this.#distribution.see(message.event.event);
      if (message.event.event === 'state') this.#enter(message.event.state);
      this.#emit(message.event);
    }
  }

  #enter(state: MigrationState): void {
    this.#state = state;
    if (state !== 'postcopy-active') return;
    // In this state the guest runs at the destination, although the migration has not ended.
    this.#at = this.#to;
    this.#console.release();
  }

  #defect(host: HostName, message: string): void {
    this.#defects++;
    this.#emit({ event: 'defect', host, message });
    this.#over.abort();
  }

  #phase(phase: 'booting' | 'warming-up' | 'migrating' | 'settling' | 'checking'): void {
    this.#emit({ event: 'phase', phase });
  }

  #interrupted(): string {
    if (this.#summaries.length === 0) return `interrupted; the guest had not moved, and ran at the ${this.#at}`;
    return `interrupted; the guest had moved, and ran at the ${this.#at}, where it had not finished to check itself`;
  }

  /** Throws when the user has cancelled the run, or a defect was found. */
  #throwIfOver(): void {
    if (this.#lost !== undefined) throw this.#lost;
    if (this.#cancelled) throw new RunError('GODWIT_CANCELLED', this.#interrupted());
    if (this.#defects > 0) throw new RunError('GODWIT_VERIFY_FAILED', `the guest reported ${this.#defects} defect(s)`);
  }
}
