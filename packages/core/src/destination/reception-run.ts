import { abortable } from '../abortable.js';
import type { Clock } from '../clock.js';
import type { MigratableVm } from '../device/migratable-vm.js';
import { agreeOn } from '../encoding/agree-on.js';
import type { PageEncoding } from '../encoding/page-encoding.js';
import { GodwitError } from '../errors.js';
import { settledWithin } from '../in-time.js';
import { FAREWELL_MS, farewell, isLinkLost } from '../link/farewell.js';
import type { FrameName, HelloFrame } from '../link/frame.js';
import type { FrameStream } from '../link/frame-stream.js';
import type { IncomingLink, LinkListener } from '../link/migration-link.js';
import { checkCompatible, checkHello, chooseVersion, FEATURES, MAXIMUM_PAYLOAD, SOFTWARE } from '../link/negotiate.js';
import type { PageStream } from '../link/page-stream.js';
import { checkGuestMemory } from '../memory/check-guest-memory.js';
import { MemoryWindows } from '../memory/memory-windows.js';
import type { ReceptionEvent, ReceptionState, ReceptionSummary } from '../migration-event.js';
import { DeviceLoader } from './device-loader.js';
import { attachChannels, readHello } from './handshake.js';
import { PageReceiver } from './page-receiver.js';
import { RamCheck } from './ram-check.js';
import { checkPayload, isPageFrame, readPageChannel, takePageFrame } from './read-page-channel.js';
import { SourceFrames } from './source-frames.js';
import { makePristine } from './zero-run.js';

/** Phases of the destination, and the frames that each allows on the control stream. */
const ALLOWED = {
  /** RAM and device state arrive; the guest runs at the source. */
  receiving: ['pages', 'zeroPages', 'deltaPages', 'compressedPages', 'roundEnd', 'device', 'switchover'],
  /** All is loaded and `ready` was sent; nobody runs the guest. */
  ready: ['digests', 'digestsEnd', 'go'],
} as const satisfies Record<string, readonly FrameName[]>;

export interface ReceptionControls {
  readonly clock: Clock;
  readonly signal: AbortSignal;
  readonly stop: (error: GodwitError) => void;
  readonly emit: (event: ReceptionEvent) => void;
  readonly setState: (state: ReceptionState) => void;
  readonly prepare: (description: unknown, hello: HelloFrame) => MigratableVm | Promise<MigratableVm>;
  readonly encodings: readonly PageEncoding[];
  readonly maximumDeviceState: number;
  readonly handshakeTimeoutMs: number;
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
  #channels: readonly PageStream[] = [];
  #vm: MigratableVm | undefined;
  #loader: DeviceLoader | undefined;
  /** Loops that read frames, and may be writing guest memory. */
  #readers: Promise<unknown>[] = [];
  #receiver: PageReceiver | undefined;
  #owned = false;
  /** Why the migration ends without us: from then on no frame is heeded, above all no `go`. */
  #failed: GodwitError | undefined;

  constructor(listener: LinkListener, controls: ReceptionControls) {
    this.#listener = listener;
    this.#controls = controls;
  }

  /** True from the moment in which `go` was read: the guest is ours. */
  get owned(): boolean {
    return this.#owned;
  }

  /** Resolves when the guest runs here. Rejects otherwise; the VM that was prepared is then abandoned. */
  async execute(): Promise<Received> {
    const over = new AbortController();
    const reporting = this.#reportProgress(over.signal);
    const { signal } = this.#controls;
    // In the same tick: a `go` that is read after this is not heeded, one that was read before is.
    const onAbort = () => {
      if (!this.#owned) this.#fail(signal.reason);
    };
    signal.addEventListener('abort', onAbort, { once: true });
    try {
      return await this.#receive();
    } catch (error) {
      throw await this.#fallBack(error);
    } finally {
      signal.removeEventListener('abort', onAbort);
      over.abort();
      await reporting;
    }
  }

  async #receive(): Promise<Received> {
    const { signal, emit, setState, clock } = this.#controls;
    const link = await this.#accept();
    setState('setup');
    const frames = new SourceFrames(link.control);
    const hello = await readHello(frames, this.#controls);
    checkHello(hello);
    const version = chooseVersion(hello);
    emit({ type: 'hello', migrationId: hello.migrationId, peer: link.peer, description: hello.description });
    const vm = await abortable(frames.during(this.#prepare(hello), 'welcome'), signal);
    checkGuestMemory(vm.memory);
    checkCompatible(hello, vm);
    const windows = new MemoryWindows(vm.memory);
    await abortable(frames.during(this.#reading(makePristine(windows, clock, signal)), 'welcome'), signal);
    const { encodings, features: agreed, missing } = agreeOn(hello.features, this.#controls.encodings);
    const features = [...hello.features.filter((feature) => feature === FEATURES.verify), ...agreed];
    for (const name of missing) {
      const message = `the source offers the encoding "${name}", which receive was not given`;
      emit({ type: 'warning', code: 'GODWIT_UNSUPPORTED', message });
    }
    const welcome = {
      type: 'welcome',
      version,
      features,
      software: SOFTWARE,
      maximumPayload: MAXIMUM_PAYLOAD,
    } as const;
    await abortable(link.control.write(welcome), signal);
    if (hello.pageChannels > 0) {
      this.#channels = await attachChannels(link, hello, frames, this.#controls);
    }
    signal.throwIfAborted();
    setState('active');

    const loader = new DeviceLoader(vm, hello.devices, this.#controls.maximumDeviceState, this.#controls.stop);
    this.#loader = loader;
    const elsewhere = this.#channels.some((channel) => channel.receivePages !== undefined);
    const receiver = new PageReceiver(windows, Math.max(1, this.#channels.length), clock, encodings, elsewhere);
    this.#receiver = receiver;
    const check = new RamCheck(windows, clock, features.includes(FEATURES.verify));
    const control = this.#reading(this.#readControl(frames, receiver, loader, check));
    for (const [index, stream] of this.#channels.entries()) {
      this.#reading(this.#readChannel(stream, index, receiver, control)).catch(() => {});
    }
    const { loadMs } = await this.#untilGo(control);
    setState('device');
    const start = clock.now();
    try {
      await vm.resume();
    } catch (error) {
      throw GodwitError.wrap(
        error,
        'GODWIT_VM_FAILED',
        'the guest was handed over, but could not be started at the destination',
      );
    }
    const resumeMs = clock.now() - start;
    await link.control.write({ type: 'running', resumeMs }).catch((error: unknown) =>
      emit({
        type: 'warning',
        code: 'GODWIT_LINK_LOST',
        message: `the guest runs here, but the source could not be told: ${String(error)}`,
      }),
    );
    await farewell(this.#streams(), clock, undefined);
    const summary: ReceptionSummary = {
      migrationId: hello.migrationId,
      rounds: receiver.round - 1,
      pages: receiver.totals,
      wireBytes: this.#bytesRead(),
      loadMs,
      resumeMs,
      verified: check.passed,
    };
    return { vm, summary };
  }

  async #accept(): Promise<IncomingLink> {
    const { signal } = this.#controls;
    const accepting = this.#listener.accept(signal);
    accepting.then(
      (link) => {
        this.#link = link;
        // A link that comes too late is dropped.
        if (this.#failed !== undefined) link.control.abort(this.#failed);
      },
      () => {},
    );
    return abortable(accepting, signal);
  }

  async #prepare(hello: HelloFrame): Promise<MigratableVm> {
    try {
      const vm = await this.#controls.prepare(hello.description, hello);
      this.#vm = vm;
      // Nobody waits for it any more.
      if (this.#failed !== undefined) await this.#abandon(this.#failed);
      return vm;
    } catch (error) {
      throw GodwitError.wrap(error, 'GODWIT_PREPARE_FAILED', 'the destination could not build the VM');
    }
  }

  /** Resolves when `go` was read. Whatever happens at the same time: either it was read first, or it is never heeded. */
  async #untilGo<T>(reading: Promise<T>): Promise<T> {
    try {
      return await abortable(reading, this.#controls.signal);
    } catch (error) {
      if (this.#owned) return reading;
      throw error;
    }
  }

  /** Reads a page channel to its end, here or on the thread that it lives on. */
  async #readChannel(
    stream: PageStream,
    channel: number,
    receiver: PageReceiver,
    control: Promise<unknown>,
  ): Promise<void> {
    const { stop, clock } = this.#controls;
    const onRoundEnd = (round: number, pages: number) => this.#channelEnded(channel, round, pages, receiver);
    const { memory } = this.#vm as MigratableVm;
    const { board } = receiver;
    try {
      if (stream.receivePages !== undefined && board.buffers !== undefined) {
        const recipes = receiver.encodings.map(({ recipe }) => recipe);
        await stream.receivePages({ channel, memory, board: board.buffers, encodings: recipes, onRoundEnd });
      } else {
        await readPageChannel(stream, receiver.writer(channel), onRoundEnd);
      }
    } catch (error) {
      // When a channel breaks, the control stream has the reason, or breaks too.
      if (isLinkLost(error)) {
        if (receiver.sealed) return;
        await settledWithin(control, clock, FAREWELL_MS);
      }
      stop(GodwitError.wrap(error, 'GODWIT_INTERNAL', `page channel ${channel} failed`));
    }
  }

  /** Reads the control stream up to `go`. */
  async #readControl(
    frames: SourceFrames,
    receiver: PageReceiver,
    loader: DeviceLoader,
    check: RamCheck,
  ): Promise<{ readonly loadMs: number }> {
    const { clock } = this.#controls;
    const control = frames.stream;
    let phase: keyof typeof ALLOWED = 'receiving';
    let loadMs = 0;
    for (;;) {
      const received = await frames.next();
      this.#checkAlive();
      const { frame, payloadBytes } = received;
      const onControl = this.#channels.length === 0 || !isPageFrame(frame.type);
      if (!(ALLOWED[phase] as readonly string[]).includes(frame.type) || !onControl) {
        throw new GodwitError(
          'GODWIT_PROTOCOL',
          `the source sent "${frame.type}" on the control stream in phase "${phase}"`,
        );
      }
      checkPayload(frame.type, payloadBytes);
      switch (frame.type) {
        case 'pages':
        case 'zeroPages':
        case 'deltaPages':
        case 'compressedPages':
        case 'roundEnd':
          await takePageFrame(control, received, receiver.writer(0), (round, pages) =>
            this.#channelEnded(0, round, pages, receiver),
          );
          break;
        case 'device': {
          loader.admit(frame, payloadBytes);
          const chunk = new Uint8Array(payloadBytes);
          if (payloadBytes > 0) await control.readPayload([chunk]);
          loader.accept(frame, chunk);
          break;
        }
        case 'switchover': {
          receiver.seal(frame.round);
          const start = clock.now();
          await frames.during(loader.loadAll(), 'ready');
          loadMs = clock.now() - start;
          phase = 'ready';
          await control.write({ type: 'ready', loadMs });
          break;
        }
        case 'digests':
          await check.compare(control, frame, payloadBytes);
          break;
        case 'digestsEnd':
          await control.write(await frames.during(check.finish(), 'verified'));
          break;
        case 'go':
          check.admitGo();
          this.#owned = true;
          return { loadMs };
        default:
          break;
      }
      this.#checkAlive();
    }
  }

  /** All pages of a round are in guest memory once every channel has ended it. */
  async #channelEnded(channel: number, round: number, channelPages: number, receiver: PageReceiver): Promise<void> {
    this.#checkAlive();
    const pages = receiver.channelEnded(channel, channelPages);
    if (pages === undefined) return;
    this.#controls.emit({ type: 'round', round, pages });
    await (this.#link as IncomingLink).control.write({ type: 'roundAck', round, pages });
  }

  /** Registers work that touches guest memory: the VM is not abandoned before it has ended. */
  #reading<T>(work: Promise<T>): Promise<T> {
    work.catch(() => {});
    this.#readers.push(work);
    return work;
  }

  #checkAlive(): void {
    if (this.#failed !== undefined) throw this.#failed;
  }

  #fail(cause: unknown): GodwitError {
    const { signal } = this.#controls;
    this.#failed ??= GodwitError.wrap(
      signal.aborted ? signal.reason : cause,
      'GODWIT_INTERNAL',
      'the reception failed',
    );
    this.#receiver?.board.stop();
    return this.#failed;
  }

  /** The source hears why, every stream is let go, and the VM that will never run is abandoned. */
  async #fallBack(cause: unknown): Promise<GodwitError> {
    const { clock, stop } = this.#controls;
    const error = this.#fail(cause);
    stop(error);
    this.#loader?.fail(error);
    await farewell(this.#streams(), clock, error.remote ? undefined : error);
    // Only now: until the streams are dropped, pages may still be on their way into the VM's memory.
    await settledWithin(Promise.allSettled(this.#readers), clock, FAREWELL_MS);
    if (!this.#owned) await this.#abandon(error);
    return error;
  }

  async #abandon(error: GodwitError): Promise<void> {
    const vm = this.#vm;
    this.#vm = undefined;
    try {
      await vm?.abandon?.(error);
    } catch (abandonError) {
      this.#controls.emit({
        type: 'warning',
        code: 'GODWIT_VM_FAILED',
        message: `the VM that will not run could not be abandoned: ${String(abandonError)}`,
      });
    }
  }

  #streams(): readonly FrameStream[] {
    return this.#link === undefined ? [] : [this.#link.control, ...this.#channels];
  }

  #bytesRead(): number {
    return this.#streams().reduce((sum, stream) => sum + stream.bytesRead, 0);
  }

  async #reportProgress(over: AbortSignal): Promise<void> {
    const { clock, emit, progressIntervalMs } = this.#controls;
    if (progressIntervalMs === 0) return;
    try {
      for (;;) {
        await clock.sleep(progressIntervalMs, over);
        if (this.#receiver === undefined) continue;
        emit({ type: 'progress', pages: this.#receiver.totals, wireBytes: this.#bytesRead() });
      }
    } catch {
      // The migration is over.
    }
  }
}
