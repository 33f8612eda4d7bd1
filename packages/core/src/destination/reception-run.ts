import { abortable } from '../abortable.js';
import type { Clock } from '../clock.js';
import type { MigratableVm } from '../device/migratable-vm.js';
import { GodwitError } from '../errors.js';
import { remoteError } from '../link/control-channel.js';
import type { Frame, FrameName, HelloFrame } from '../link/frame.js';
import type { FrameStream, ReceivedFrame } from '../link/frame-stream.js';
import type { IncomingLink, LinkListener } from '../link/migration-link.js';
import { checkCompatible, chooseVersion, FEATURES, MAXIMUM_PAYLOAD, SOFTWARE } from '../link/negotiate.js';
import { MemoryWindows } from '../memory/memory-windows.js';
import type { ReceptionEvent, ReceptionState, ReceptionSummary } from '../migration-event.js';
import { DigestComparison } from '../verify/compare-digests.js';
import { DIGEST_BYTES } from '../verify/page-digest.js';
import { DeviceLoader } from './device-loader.js';
import { makePristine, PageReceiver } from './page-receiver.js';
import { checkRuns } from './run-check.js';

/** How long a failing destination waits for the source to take the reason. */
const FAREWELL_MS = 1000;

/** Phases of the destination, and the frames that each allows on the control stream. */
const ALLOWED = {
  /** RAM and device state arrive; the guest runs at the source. */
  receiving: ['pages', 'zeroPages', 'roundEnd', 'device', 'switchover', 'ping'],
  /** All is loaded and `ready` was sent; nobody runs the guest. */
  ready: ['digests', 'digestsEnd', 'go', 'ping'],
} as const satisfies Record<string, readonly FrameName[]>;

export interface ReceptionControls {
  readonly clock: Clock;
  readonly signal: AbortSignal;
  readonly stop: (error: GodwitError) => void;
  readonly emit: (event: ReceptionEvent) => void;
  readonly setState: (state: ReceptionState) => void;
  readonly prepare: (description: unknown, hello: HelloFrame) => MigratableVm | Promise<MigratableVm>;
  readonly maximumDeviceState: number;
  readonly progressIntervalMs: number;
}

export interface Received {
  readonly vm: MigratableVm;
  readonly summary: ReceptionSummary;
}

/** One migration at the destination, from `hello` to `running`. */
export class ReceptionRun {
  readonly #listener: LinkListener;
  readonly #controls: ReceptionControls;
  #link: IncomingLink | undefined;
  #channels: readonly FrameStream[] = [];
  #vm: MigratableVm | undefined;
  #loader: DeviceLoader | undefined;
  #owned = false;

  constructor(listener: LinkListener, controls: ReceptionControls) {
    this.#listener = listener;
    this.#controls = controls;
  }

  /** Resolves when the guest runs here. Rejects otherwise; the VM that was prepared is then abandoned. */
  async execute(): Promise<Received> {
    try {
      return await this.#receive();
    } catch (error) {
      throw await this.#fallBack(error);
    }
  }

  async #receive(): Promise<Received> {
    const { signal, emit, setState, clock, prepare, stop } = this.#controls;
    const link = await this.#listener.accept(signal);
    this.#link = link;
    setState('setup');
    const hello = await this.#hello(link);
    const version = chooseVersion(hello);
    emit({ type: 'hello', migrationId: hello.migrationId, peer: link.peer, description: hello.description });
    const vm = await this.#prepare(prepare, hello);
    checkCompatible(hello, vm);
    const windows = new MemoryWindows(vm.memory);
    makePristine(windows);
    const features = hello.features.filter((feature) => feature === FEATURES.verify);
    const welcome = { type: 'welcome', version, features, software: SOFTWARE, maximumPayload: MAXIMUM_PAYLOAD } as const;
    await abortable(link.control.write(welcome), signal);
    this.#channels =
      hello.pageChannels === 0 ? [] : await link.pageChannels(hello.migrationId, hello.pageChannels, signal);
    setState('active');

    const loader = new DeviceLoader(vm, hello.devices, this.#controls.maximumDeviceState, stop);
    this.#loader = loader;
    const receiver = new PageReceiver(windows, Math.max(1, this.#channels.length));
    const over = new AbortController();
    const reporting = this.#reportProgress(receiver, over.signal);
    try {
      const side = this.#channels.map((stream, index) => this.#readChannel(stream, index, receiver));
      for (const reading of side) reading.catch((error: unknown) => stop(GodwitError.wrap(error, 'GODWIT_LINK_LOST', 'a page channel failed')));
      const reading = this.#readControl(link.control, receiver, loader, windows);
      const { loadMs, verified } = await abortable(reading, signal).catch((error: unknown) => {
        // `go` was read in the same tick: from then on the guest is ours, whatever else happens.
        if (this.#owned) return reading;
        throw error;
      });
      setState('device');
      const start = clock.now();
      await vm.resume();
      const resumeMs = clock.now() - start;
      await link.control.write({ type: 'running', resumeMs }).catch((error: unknown) =>
        emit({
          type: 'warning',
          code: 'GODWIT_LINK_LOST',
          message: `the guest runs here, but the source could not be told: ${String(error)}`,
        }),
      );
      const summary: ReceptionSummary = {
        migrationId: hello.migrationId,
        rounds: receiver.round - 1,
        pages: { ...receiver.totals },
        wireBytes: this.#bytesRead(),
        loadMs,
        resumeMs,
        verified,
      };
      await this.#close();
      return { vm, summary };
    } finally {
      over.abort();
      await reporting;
    }
  }

  async #hello(link: IncomingLink): Promise<HelloFrame> {
    const received = await abortable(link.control.read(), this.#controls.signal);
    if (received === null) throw new GodwitError('GODWIT_LINK_LOST', 'the source closed the connection before its hello');
    if (received.frame.type === 'error') throw remoteError(received.frame.code, received.frame.message, 'source');
    if (received.frame.type !== 'hello') {
      throw new GodwitError('GODWIT_PROTOCOL', `expected "hello" as the first frame, got "${received.frame.type}"`);
    }
    return received.frame;
  }

  async #prepare(prepare: ReceptionControls['prepare'], hello: HelloFrame): Promise<MigratableVm> {
    try {
      const vm = await prepare(hello.description, hello);
      this.#vm = vm;
      this.#controls.signal.throwIfAborted();
      return vm;
    } catch (error) {
      throw GodwitError.wrap(error, 'GODWIT_PREPARE_FAILED', 'the destination could not build the VM');
    }
  }

  /** Reads a page channel to its end. */
  async #readChannel(stream: FrameStream, index: number, receiver: PageReceiver): Promise<void> {
    for (;;) {
      const received = await stream.read();
      if (received === null) return;
      const { frame } = received;
      if (frame.type !== 'pages' && frame.type !== 'zeroPages' && frame.type !== 'roundEnd') {
        throw new GodwitError('GODWIT_PROTOCOL', `a "${frame.type}" frame came on page channel ${index}`);
      }
      await this.#page(stream, index, received, receiver);
    }
  }

  /** Reads the control stream up to `go`. */
  async #readControl(
    control: FrameStream,
    receiver: PageReceiver,
    loader: DeviceLoader,
    windows: MemoryWindows,
  ): Promise<{ readonly loadMs: number; readonly verified: boolean }> {
    const { clock } = this.#controls;
    let phase: keyof typeof ALLOWED = 'receiving';
    let loadMs = 0;
    let comparison: DigestComparison | undefined;
    let verified = false;
    for (;;) {
      const received = await control.read();
      if (received === null) throw new GodwitError('GODWIT_LINK_LOST', 'the source closed the connection before the end of the migration');
      const { frame } = received;
      if (frame.type === 'error') throw remoteError(frame.code, frame.message, 'source');
      const onControl = this.#channels.length === 0 || !isPageFrame(frame.type);
      if (!(ALLOWED[phase] as readonly string[]).includes(frame.type) || !onControl) {
        throw new GodwitError('GODWIT_PROTOCOL', `the source sent "${frame.type}" on the control stream in phase "${phase}"`);
      }
      switch (frame.type) {
        case 'pages':
        case 'zeroPages':
        case 'roundEnd':
          await this.#page(control, 0, received, receiver);
          break;
        case 'device': {
          loader.admit(frame, received.payloadBytes);
          const chunk = new Uint8Array(received.payloadBytes);
          await control.readPayload([chunk]);
          loader.accept(frame, chunk);
          break;
        }
        case 'switchover': {
          if (frame.round !== receiver.round - 1) {
            throw new GodwitError('GODWIT_PROTOCOL', `"switchover" after round ${frame.round}, but round ${receiver.round - 1} was the last to end`);
          }
          const start = clock.now();
          await loader.loadAll();
          loadMs = clock.now() - start;
          phase = 'ready';
          await control.write({ type: 'ready', loadMs });
          break;
        }
        case 'digests': {
          comparison ??= new DigestComparison(windows);
          const pages = checkRuns(windows.memory, frame.block, frame.runs, 'digests');
          if (received.payloadBytes !== pages * DIGEST_BYTES) {
            throw new GodwitError('GODWIT_PROTOCOL', `a "digests" frame has ${pages} pages but ${received.payloadBytes} bytes of digests`);
          }
          const digests = new Uint32Array(pages * 2);
          await control.readPayload([new Uint8Array(digests.buffer)]);
          comparison.compare(frame.block, frame.runs, digests);
          break;
        }
        case 'digestsEnd': {
          comparison ??= new DigestComparison(windows);
          await comparison.finish(() => clock.yield());
          const { pagesCompared, pagesDifferent, differences } = comparison;
          await control.write({ type: 'verified', pagesCompared, pagesDifferent, differences });
          verified = pagesDifferent === 0;
          break;
        }
        case 'ping':
          await control.write({ type: 'pong', id: frame.id });
          break;
        case 'go':
          this.#owned = true;
          return { loadMs, verified };
        default:
          break;
      }
    }
  }

  async #page(stream: FrameStream, channel: number, { frame, payloadBytes }: ReceivedFrame, receiver: PageReceiver): Promise<void> {
    if (frame.type === 'pages') await receiver.pages(channel, stream, frame, payloadBytes);
    else if (frame.type === 'zeroPages') receiver.zeroPages(channel, frame);
    else if (frame.type === 'roundEnd') {
      const pages = receiver.roundEnd(channel, frame);
      if (pages === undefined) return;
      this.#controls.emit({ type: 'round', round: frame.round, pages });
      await (this.#link as IncomingLink).control.write({ type: 'roundAck', round: frame.round, pages });
    }
  }

  async #close(): Promise<void> {
    const { clock } = this.#controls;
    const streams = this.#streams();
    const inTime = new AbortController();
    const late = clock.sleep(FAREWELL_MS, inTime.signal);
    const closing = Promise.all(streams.map((stream) => stream.close()));
    await Promise.race([closing, late]).catch(() => {});
    inTime.abort();
    late.catch(() => {});
    closing.catch(() => {});
    for (const stream of streams) stream.abort(new GodwitError('GODWIT_LINK_LOST', 'the migration is over'));
  }

  /** The source hears why, the VM that will never run is abandoned, every stream is let go. */
  async #fallBack(cause: unknown): Promise<GodwitError> {
    const { signal } = this.#controls;
    const first: unknown = signal.aborted ? signal.reason : cause;
    const error = GodwitError.wrap(first, 'GODWIT_INTERNAL', 'the reception failed');
    this.#loader?.fail(error);
    const link = this.#link;
    if (link !== undefined && !error.remote) {
      link.control.write({ type: 'error', code: error.code, message: error.message }).catch(() => {});
    }
    if (link !== undefined) await this.#close();
    if (!this.#owned) {
      try {
        await this.#vm?.abandon?.(error);
      } catch (abandonError) {
        this.#controls.emit({
          type: 'warning',
          code: 'GODWIT_VM_FAILED',
          message: `the VM that will not run could not be abandoned: ${String(abandonError)}`,
        });
      }
    }
    return error;
  }

  #streams(): readonly FrameStream[] {
    return this.#link === undefined ? [] : [this.#link.control, ...this.#channels];
  }

  #bytesRead(): number {
    return this.#streams().reduce((sum, stream) => sum + stream.bytesRead, 0);
  }

  async #reportProgress(receiver: PageReceiver, over: AbortSignal): Promise<void> {
    const { clock, emit, progressIntervalMs } = this.#controls;
    try {
      for (;;) {
        await clock.sleep(progressIntervalMs, over);
        emit({ type: 'progress', pages: { ...receiver.totals }, wireBytes: this.#bytesRead() });
      }
    } catch {
      // The migration is over.
    }
  }
}

function isPageFrame(type: Frame['type']): boolean {
  return type === 'pages' || type === 'zeroPages' || type === 'roundEnd';
}
