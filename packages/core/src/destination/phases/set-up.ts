import { abortable } from '../../abortable.js';
import { Claim } from '../../claim/claim.js';
import type { MigratableVm } from '../../device/migratable-vm.js';
import { checkDecoderState } from '../../encoding/decoder-state.js';
import { agreeOn } from '../../encoding/page-encoding.js';
import { GodwitError } from '../../errors.js';
import { checkGuestMemory } from '../../memory/check-guest-memory.js';
import { DirtyBitmaps } from '../../memory/dirty-bitmaps.js';
import { MemoryWindows } from '../../memory/memory-windows.js';
import { populatedBitmaps } from '../../memory/populated-pages.js';
import type { HelloFrame, WelcomeFrame } from '../../protocol/frame.js';
import {
  checkCompatible,
  checkHello,
  chooseVersion,
  FEATURES,
  MAXIMUM_PAYLOAD,
  SOFTWARE,
} from '../../protocol/negotiate.js';
import { checkNotShared } from '../../protocol/shared-memory.js';
import { isLost } from '../../session/connection.js';
import { mayRetry } from '../../session/retry.js';
import { migrationBlockers, postcopyBlockers } from '../../source/blockers.js';
import { randomId } from '../../source/options.js';
import { abandonVm } from '../abandon-vm.js';
import type { DestinationContext, DestinationPhase } from '../destination-context.js';
import { DeviceLoader } from '../device-loader.js';
import { onChannels } from '../device-pieces.js';
import { ramCheck } from '../go-back.js';
import type { IncomingConnection } from '../incoming-connection.js';
import { LoadForecast } from '../load-forecast.js';
import { LoadedReports } from '../loaded-reports.js';
import { checkPayload } from '../read-page-channel.js';
import { serveMissing } from '../serve-missing.js';

/** Waits for a source, builds the VM that it describes, and answers `welcome`. After a dry run it waits for the next source. */
export class SetUp implements DestinationPhase {
  readonly name = 'set-up';

  async run(context: DestinationContext): Promise<DestinationPhase> {
    const { session, options } = context;
    for (;;) {
      const connection = await session.first(options);
      const { hello } = connection;
      if (hello.stage !== 'dryRun') return this.#setUp(context, connection);
      await this.#answerDryRun(context, connection).catch((error: unknown) => {
        session.signal.throwIfAborted();
        void connection.close(dryRunFailed(error));
      });
    }
  }

  async #setUp(context: DestinationContext, connection: IncomingConnection): Promise<DestinationPhase> {
    const { session, ownership, setState, options } = context;
    const { hello } = connection;
    setState('setup');
    checkHello(hello);
    session.register(connection, { ownership, attempt: () => context.arriving?.attempt ?? hello.attempt });
    const version = chooseVersion(hello);
    const wanted = asLongAsWanted(connection, session.signal);
    await unlessLost(connection, connection.takeChannels(options.handshakeTimeoutMs));
    const vm = await this.#prepared(context, connection, wanted);
    const claim = this.#claim(context, vm, hello);
    await this.#check(context, connection, vm, wanted);
    await abortable(this.#served(context, connection, vm, claim), wanted);
    const windows = new MemoryWindows(vm.memory);
    const contents = new DirtyBitmaps(vm.memory);
    const looking = populatedBitmaps(vm.memory, contents, options.clock, wanted);
    claim.keepUntil(looking, 'looking for holes in the memory of the VM');
    await abortable(connection.borrow(looking), wanted);
    const { encodings, welcome } = this.#agreed(context, connection, version);
    const loaded = new LoadedReports(context);
    const forecast = new LoadForecast(vm, options.clock, (message) =>
      context.emit({ type: 'warning', code: 'GODWIT_UNSUPPORTED', message }),
    );
    const receive = context.phases.receive({
      ...{ vm, hello, claim, windows, contents, welcome, encodings },
      forecast,
      loader: new DeviceLoader({
        forecast,
        vm,
        described: hello.devices,
        maximumBytes: options.maximumDeviceState,
        anyOrder: onChannels({ welcome }),
        onFailure: (error) => session.end.set(error),
        onLoaded: (device) => loaded.report(device),
      }),
      check: ramCheck(context, windows, welcome),
      receiver: undefined,
      named: undefined,
      attempt: hello.attempt,
      ...{ loadMs: 0, readyAt: 0, runState: 'running', resumeMs: 0, sinceReadyMs: 0 },
    });
    receive.take(connection);
    await unlessLost(connection, connection.write(welcome));
    connection.keepAlive(options);
    setState('active');
    return receive;
  }

  /**
   * Begins to serve missing pages, where the guest is to run at once. `rollBack` ends the service, also if the migration fails while it
   * is being set up.
   */
  #served(context: DestinationContext, connection: IncomingConnection, vm: MigratableVm, claim: Claim): Promise<void> {
    const serving = serveMissing(context, connection, vm);
    claim.keepUntil(serving, 'serving the missing pages of the VM');
    context.servingMissing = serving.then(
      () => {},
      () => {},
    );
    return serving;
  }

  /** Answers a dry run: makes every check that could refuse a migration, and abandons the VM. */
  async #answerDryRun(context: DestinationContext, connection: IncomingConnection): Promise<void> {
    const { hello } = connection;
    checkHello(hello);
    const version = chooseVersion(hello);
    await connection.takeChannels(context.options.handshakeTimeoutMs);
    const vm = await this.#prepared(context, connection, connection.signal);
    const claim = this.#claim(context, vm, hello);
    let failure: GodwitError | undefined;
    try {
      await this.#check(context, connection, vm, connection.signal);
      connection.serve(
        () => 'dry-run',
        ({ frame, payloadBytes }) => {
          checkPayload(frame.type, payloadBytes);
          return connection.control.skipPayload();
        },
      );
      await connection.write(this.#agreed(context, connection, version).welcome);
      connection.keepAlive(context.options);
      await abortable(connection.ended, context.session.signal);
    } catch (error) {
      failure = dryRunFailed(error);
    }
    await connection.close(failure);
    context.vm = undefined;
    context.claim = undefined;
    const never = new GodwitError('GODWIT_CANCELLED', 'it was a dry run: the VM will never run');
    await abandonVm(context, vm, never, claim);
    claim.end();
  }

  async #prepared(
    context: DestinationContext,
    { hello, peer }: IncomingConnection,
    signal: AbortSignal,
  ): Promise<MigratableVm> {
    const { migrationId, description, stage } = hello;
    context.emit({ type: 'hello', migrationId, peer, description, dryRun: stage === 'dryRun' });
    const preparing = this.#prepare(context, hello);
    return abortable(preparing, signal).catch((error: unknown) => {
      // A VM that `prepare` builds after the end is abandoned.
      preparing.then(
        (late) => abandonVm(context, late, error as GodwitError),
        () => {},
      );
      throw error;
    });
  }

  /** Refuses a VM that does not match the source's VM, or that cannot be received now. */
  async #check(
    { options }: DestinationContext,
    { hello }: IncomingConnection,
    vm: MigratableVm,
    signal: AbortSignal,
  ): Promise<void> {
    checkGuestMemory(vm.memory);
    checkCompatible(hello, vm, options.maximumDeviceState);
    const blockers = await migrationBlockers({ devices: vm.devices }, signal);
    if (blockers.length > 0) {
      throw new GodwitError('GODWIT_BLOCKED', `the destination cannot receive the VM now: ${blockers.join('; ')}`);
    }
    if (!hello.features.includes(FEATURES.postcopy) || options.faults === undefined) return;
    const reasons = [...postcopyBlockers(vm), ...options.faults.blockers(vm.memory)];
    if (reasons.length === 0) return;
    throw new GodwitError(
      'GODWIT_BLOCKED',
      `the guest cannot run at the destination before its memory is whole, which post-copy takes: ${reasons.join('; ')}`,
    );
  }

  async #prepare({ options }: DestinationContext, hello: HelloFrame): Promise<MigratableVm> {
    try {
      const vm: MigratableVm | undefined = await options.prepare(hello.description, hello);
      if (typeof vm === 'object' && vm !== null) return vm;
      throw new Error(`prepare() must return a MigratableVm, got ${String(vm)}`);
    } catch (error) {
      throw GodwitError.wrap(error, 'GODWIT_PREPARE_FAILED', 'the destination could not build the VM');
    }
  }

  /** Claims the VM. A VM that takes part in another migration, or whose memory is the source's, is refused, and not abandoned. */
  #claim(context: DestinationContext, vm: MigratableVm, hello: HelloFrame): Claim {
    try {
      checkNotShared(hello, vm.memory);
      const claim = Claim.take(vm, 'arriving', hello.migrationId);
      context.vm = vm;
      context.claim = claim;
      return claim;
    } catch (error) {
      const { code, message } = GodwitError.wrap(error, 'GODWIT_INTERNAL', 'the VM could not be claimed');
      throw new GodwitError(code, message, { cause: error, retry: false });
    }
  }

  #agreed({ options, emit }: DestinationContext, connection: IncomingConnection, version: number) {
    const { hello, control } = connection;
    const { encodings, features: agreed, missing } = agreeOn(hello.features, options.encodings);
    checkDecoderState(encodings, hello.pageChannels);
    const own: readonly string[] = [
      FEATURES.verify,
      FEATURES.back,
      FEATURES.probe,
      FEATURES.bitmap,
      FEATURES.shared,
      FEATURES.deviceChannels,
      FEATURES.loadEarly,
      ...(control.checksums === true ? [FEATURES.checksum] : []),
      ...(options.faults !== undefined && connection.urgent !== undefined ? [FEATURES.postcopy] : []),
    ];
    const features = [...hello.features.filter((feature) => own.includes(feature)), ...agreed];
    for (const name of missing) {
      const message = `the source offers the encoding "${name}", which receive was not given`;
      emit({ type: 'warning', code: 'GODWIT_UNSUPPORTED', message });
    }
    const welcome: WelcomeFrame = {
      type: 'welcome',
      version,
      features,
      software: SOFTWARE,
      maximumPayload: MAXIMUM_PAYLOAD,
      incarnation: randomId(options.random),
      maximumDeviceState: options.maximumDeviceState,
    };
    return { encodings, welcome };
  }
}

/**
 * Returns a signal that aborts when the VM is no longer needed: at the end of the migration, or at the end of the connection unless its
 * link was lost. After a lost link the source reconnects, and gets `welcome` on the next connection.
 */
function asLongAsWanted(connection: IncomingConnection, over: AbortSignal): AbortSignal {
  const unwanted = new AbortController();
  const { signal } = connection;
  const onLost = () => {
    if (!isOnlyLost(connection)) unwanted.abort(signal.reason);
  };
  if (signal.aborted) onLost();
  else signal.addEventListener('abort', onLost, { once: true });
  const onOver = () => unwanted.abort(over.reason);
  if (over.aborted) onOver();
  else over.addEventListener('abort', onOver, { once: true });
  return unwanted.signal;
}

/** Settles as `work` does, but resolves when it failed because the link was lost: the next phase waits for the source to reconnect. */
async function unlessLost(connection: IncomingConnection, work: Promise<void>): Promise<void> {
  try {
    await work;
  } catch (error) {
    if (!isOnlyLost(connection) && !isLost(error)) throw error;
    // The write may fail before the control stream's reader does.
    connection.end(error as GodwitError);
  }
}

function isOnlyLost({ signal }: IncomingConnection): boolean {
  return mayRetry(signal.reason, 'connected');
}

function dryRunFailed(error: unknown): GodwitError {
  return GodwitError.wrap(error, 'GODWIT_INTERNAL', 'the dry run failed');
}
