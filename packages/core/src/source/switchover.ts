import { abortable } from '../abortable.js';
import type { Clock } from '../clock.js';
import type { MigratableVm } from '../device/migratable-vm.js';
import { GodwitError } from '../errors.js';
import { inTime } from '../in-time.js';
import type { ControlChannel } from '../link/control-channel.js';
import type { MemoryWindows } from '../memory/memory-windows.js';
import type { DowntimeTerms } from '../round-record.js';
import type { TrackerUnion } from '../tracker/tracker-union.js';
import { sendDigests } from '../verify/send-digests.js';
import type { DeviceSender } from './device-sender.js';
import type { Harvest, Harvester } from './harvester.js';

export interface SwitchoverParts {
  readonly vm: MigratableVm;
  readonly pause: () => Promise<void>;
  readonly control: ControlChannel;
  readonly harvester: Harvester;
  readonly devices: DeviceSender;
  readonly windows: MemoryWindows;
  readonly clock: Clock;
  readonly signal: AbortSignal;
  readonly verify: boolean;
  readonly maximumPayload: number;
  /** How long the destination may take for `ready`. */
  readonly timeoutMs: number;
  /** Sends pages as a further round, without the bandwidth limit; resolves when acknowledged. */
  readonly send: (harvest: Harvest) => Promise<void>;
  readonly lastRound: () => number;
  readonly tracker: TrackerUnion;
  /** With the guest paused, before anything is sent: waits for `proceed` where that was asked for. */
  readonly hold: () => Promise<void>;
  readonly onVerified: (pages: number, verifyMs: number) => void;
  /**
   * Writes `go`, in the same tick, and resolves once the destination runs the guest. After it the source never resumes
   * the guest by itself, and nothing that fails in it has anything to say about the guest's being here.
   */
  readonly handOver: () => Promise<HandedOver>;
}

/** What the destination says of itself when it runs the guest. */
export interface HandedOver {
  /** How long it took there to start the guest, in milliseconds; 0 where that was not told. */
  readonly resumeMs: number;
}

export interface SwitchoverResult {
  readonly terms: DowntimeTerms;
  readonly downtimeMs: number;
  readonly verifyMs: number;
  readonly heldMs: number;
  readonly verifiedPages: number;
}

/**
 * Stop-and-copy and the handshake that moves ownership:
 *
 * ```
 * source                                      destination
 * pause
 * harvest, send                          ->   pages into memory
 * save devices                           ->   state kept
 * harvest again, send (saving dirties)   ->
 * switchover                             ->   load devices
 *                                        <-   ready
 * [digests of all RAM                    ->   compare]
 * harvest: must be empty, and known to be
 * go                                     ->   resume                 (the point of no return)
 *                                        <-   running
 * released                               ->
 * ```
 *
 * Anything that fails before `go` throws, and the caller resumes the guest at the source.
 */
export async function switchover(pending: Harvest, parts: SwitchoverParts): Promise<SwitchoverResult> {
  const { vm, control, harvester, devices, clock, signal, timeoutMs } = parts;
  const start = clock.now();
  await parts.pause();
  const paused = clock.now();
  signal.throwIfAborted();
  await abortable(parts.hold(), signal);
  const held = clock.now();

  const last = await abortable(harvester.harvest(pending.bitmaps), signal);
  const harvested = clock.now();
  await parts.send(last);
  const sent = clock.now();
  await devices.save();
  const saved = clock.now();
  const leftOver = await abortable(harvester.harvest(), signal);
  const harvestedAgain = clock.now();
  if (leftOver.dirtyPages > 0) await parts.send(leftOver);
  else harvester.release(leftOver.bitmaps);
  const sentAgain = clock.now();

  const answered = control.ask(
    { type: 'switchover', round: parts.lastRound(), attempt: 1, runState: 'running' },
    'ready',
  );
  const { loadMs } = await abortable(
    inTime(answered, clock, timeoutMs, () => silent(timeoutMs)),
    signal,
  );
  const ready = clock.now();

  let verifiedPages = 0;
  if (parts.verify) {
    verifiedPages = await verifyMemory(parts);
    parts.onVerified(verifiedPages, clock.now() - ready);
  }
  const verified = clock.now();

  const after = await abortable(harvester.harvest(), signal);
  if (parts.tracker.failed) throw unknownWrites();
  if (parts.tracker.surelyWritten) throw writtenWhilePaused(vm, after);
  const checked = clock.now();
  signal.throwIfAborted();
  const { resumeMs } = await parts.handOver();
  const end = clock.now();

  const heldMs = held - paused;
  const verifyMs = parts.verify ? verified - ready : 0;
  const downtimeMs = end - start - heldMs - verifyMs;
  const terms = {
    pauseMs: paused - start,
    harvestMs: harvested - held + (harvestedAgain - saved) + (checked - verified),
    ramMs: sent - harvested + (sentAgain - harvestedAgain),
    deviceMs: saved - sent,
    loadMs: atMost(loadMs, ready - sentAgain),
    resumeMs: atMost(resumeMs, end - checked),
  };
  const known = terms.pauseMs + terms.harvestMs + terms.ramMs + terms.deviceMs + terms.loadMs + terms.resumeMs;
  return {
    terms: { ...terms, roundTripMs: Math.max(0, downtimeMs - known) },
    downtimeMs,
    verifyMs,
    heldMs,
    verifiedPages,
  };
}

async function verifyMemory(parts: SwitchoverParts): Promise<number> {
  const { control, windows, clock, signal, vm, maximumPayload } = parts;
  const answer = control.expect('verified');
  const sent = await sendDigests({ windows, stream: control.stream, clock, signal, maximumPayload });
  const { pagesCompared, pagesDifferent, differences } = await abortable(answer, signal);
  if (!(pagesCompared >= sent)) {
    throw new GodwitError(
      'GODWIT_PROTOCOL',
      `${sent} digests were sent, but the destination compared ${pagesCompared} pages`,
    );
  }
  if (pagesDifferent !== 0) {
    const named: string[] = [];
    for (let i = 0; i + 1 < differences.length; i += 2) {
      named.push(`${vm.memory.blocks[differences[i] as number]?.id ?? '?'}:${differences[i + 1]}`);
    }
    throw new GodwitError(
      'GODWIT_VERIFY_FAILED',
      `${pagesDifferent} of ${pagesCompared} pages differ at the destination (${named.join(', ')}${pagesDifferent > named.length ? ', ...' : ''}); ` +
        'a writer of guest memory is seen by no dirty tracker, or the link alters bytes; the guest stays at the source',
    );
  }
  return pagesCompared;
}

/** What the destination says of its own clock, as far as it fits into what passed here. */
function atMost(reportedMs: number, passedMs: number): number {
  return reportedMs >= 0 ? Math.min(reportedMs, passedMs) : 0;
}

function silent(timeoutMs: number): GodwitError {
  return new GodwitError(
    'GODWIT_TIMEOUT',
    `the destination did not answer "ready" within switchoverTimeoutMs (${timeoutMs} ms) while the guest is paused`,
  );
}

function unknownWrites(): GodwitError {
  return new GodwitError(
    'GODWIT_TRACKER_FAILED',
    'a dirty tracker failed just before the hand-over, so whether memory was written after it was sent is not known; the guest stays at the source',
  );
}

function writtenWhilePaused(vm: MigratableVm, harvest: Harvest): GodwitError {
  const [index] = harvest.bitmaps.blocks
    .map((bitmap, i) => ({ page: bitmap.nextDirty(0), i }))
    .filter(({ page }) => page !== -1);
  return new GodwitError(
    'GODWIT_VM_FAILED',
    `${harvest.dirtyPages} pages were written after the guest was paused and its devices saved ` +
      `(first: ${vm.memory.blocks[index?.i ?? 0]?.id} page ${index?.page}); pause() must stop every writer of guest memory`,
  );
}
