import { GodwitError } from '../../errors.js';
import type { ReceivedFrame } from '../../link/frame-stream.js';
import { DirtyBitmaps } from '../../memory/dirty-bitmaps.js';
import type { RamBlock } from '../../memory/guest-memory.js';
import type {
  AwaitPiecesFrame,
  DeviceFrame,
  HelloFrame,
  LoadEarlyFrame,
  MissingFrame,
  PrepareFrame,
  SwitchoverFrame,
} from '../../protocol/frame.js';
import { FEATURES } from '../../protocol/negotiate.js';
import { isLegal } from '../../protocol/protocol-table.js';
import type { Arriving, DestinationContext, DestinationPhase, ServingPhase } from '../destination-context.js';
import { onChannels, readPiece } from '../device-pieces.js';
import { giveUpPages } from '../give-up-pages.js';
import { acknowledgeBack, goBackTo } from '../go-back.js';
import type { IncomingConnection } from '../incoming-connection.js';
import type { PageReceiver } from '../page-receiver.js';
import { checkPayload, isPageFrame, takePageFrame } from '../read-page-channel.js';
import { addNamedPages } from '../run-check.js';
import { channelEnded, readFrom, serve, writeNamed } from '../serve.js';

/** Receives while the guest runs at the source: writes pages to memory, and lets devices load the state that has come. */
export class Receive implements ServingPhase {
  readonly name = 'receive';
  readonly protocolPhase = 'receiving';
  readonly next: Promise<DestinationPhase>;
  #lead: (phase: DestinationPhase) => void = () => {};
  readonly #context: DestinationContext;
  readonly #arriving: Arriving;
  /** Number of the last `prepare`, the only one that is answered. */
  #question = 0;
  /** The connection over which the source was told the pages that loads have written. */
  #owedToldOn: IncomingConnection | undefined;
  /** True while `switchover` was read and pieces of device state that were sent before it have not come yet. */
  #switchingOver = false;

  private constructor(context: DestinationContext, arriving: Arriving) {
    this.#context = context;
    this.#arriving = arriving;
    this.next = new Promise((resolve) => {
      this.#lead = resolve;
    });
  }

  /** Makes the phase. Frames are handled by it from this tick on. */
  static begin(context: DestinationContext, arriving: Arriving): Receive {
    const receive = new Receive(context, arriving);
    context.arriving = arriving;
    context.serving = receive;
    return receive;
  }

  run(context: DestinationContext): Promise<DestinationPhase> {
    return serve(context, this);
  }

  take(connection: IncomingConnection): void {
    readFrom(this.#context, this.#arriving, connection);
  }

  returned(hello: HelloFrame): ServingPhase {
    const { attempt, receiver } = this.#arriving;
    // Pieces that `switchover` waited for are lost with their connection: the source has to give the attempt up.
    (receiver as PageReceiver).unseal();
    this.#switchingOver = false;
    this.#arriving.named = undefined;
    if (hello.attempt > attempt) goBackTo(this.#context, this.#arriving, hello.attempt);
    return this;
  }

  handle(received: ReceivedFrame): void | Promise<void> {
    const { frame, payloadBytes } = received;
    checkPayload(frame.type, payloadBytes);
    const connection = this.#context.session.current as IncomingConnection;
    // After `switchover` pieces of device state may still come on page channels, but no further frame of this attempt on the
    // control stream.
    if (this.#switchingOver && !isLegal('destination', 'loading', frame.type)) {
      throw new GodwitError('GODWIT_PROTOCOL', `the source sent "${frame.type}" after "switchover"`);
    }
    if (isPageFrame(frame.type)) return this.#pages(connection, received);
    switch (frame.type) {
      case 'device':
        return this.#device(connection, frame, payloadBytes);
      case 'prepare':
        this.#prepare(connection, frame);
        return;
      case 'missing':
        return this.#missing(connection, frame);
      case 'awaitPieces':
        this.#awaitPieces(connection, frame);
        return;
      case 'loadEarly':
        this.#loadEarly(frame);
        return;
      case 'switchover':
        this.#switchover(connection, frame);
        return;
      case 'back':
        this.#checkAttempt('back', frame.attempt);
        this.#switchingOver = false;
        goBackTo(this.#context, this.#arriving, frame.attempt + 1);
        return acknowledgeBack(connection, this.#arriving, frame.attempt);
      case 'probe':
        return connection.control.skipPayload();
      default:
    }
  }

  async #pages(connection: IncomingConnection, received: ReceivedFrame): Promise<void> {
    const receiver = this.#arriving.receiver as PageReceiver;
    if (connection.pageChannels.length > 0) {
      throw new GodwitError(
        'GODWIT_PROTOCOL',
        `the source sent "${received.frame.type}" on the control stream, though the migration has page channels`,
      );
    }
    await takePageFrame(connection.control, received, receiver.writer(0), (round, pages) =>
      channelEnded(this.#context, connection, receiver, 0, round, pages),
    );
  }

  /** Answers `arrived` once the pieces before `deviceSequences` have come, on whatever stream. */
  #awaitPieces(connection: IncomingConnection, { id, attempt, deviceSequences }: AwaitPiecesFrame): void {
    if (attempt !== 0) this.#checkAttempt('awaitPieces', attempt);
    this.#mayOvertake('awaitPieces');
    const arrived = this.#arriving.loader.arrived(attempt, deviceSequences);
    // A failure to write is ignored: a lost link is noticed by reading from it.
    void arrived.then(() => connection.write({ type: 'arrived', id })).catch(() => {});
  }

  #loadEarly(frame: LoadEarlyFrame): void {
    this.#checkAttempt('loadEarly', frame.attempt);
    const { loader, welcome, claim, named } = this.#arriving;
    if (!welcome.features.includes(FEATURES.loadEarly)) throw notAgreed('loadEarly', FEATURES.loadEarly);
    if (named !== undefined) {
      throw new GodwitError('GODWIT_PROTOCOL', 'the source sent "loadEarly" after "missing": a load could read zeros');
    }
    claim.keepUntil(loader.loadEarly(frame), 'load() of a device');
  }

  /** Handles the pages that the source names as missing: the contents that this side has of them are old, and are given up. */
  async #missing(connection: IncomingConnection, frame: MissingFrame): Promise<void> {
    const arriving = this.#arriving;
    const { welcome, vm, receiver } = arriving;
    if (!welcome.features.includes(FEATURES.postcopy)) throw notAgreed('missing', FEATURES.postcopy);
    if (arriving.named === undefined) this.#context.options.faults?.prepare?.(vm.memory);
    arriving.named ??= new DirtyBitmaps(vm.memory);
    const fresh = new DirtyBitmaps(vm.memory);
    addNamedPages(vm.memory, frame, fresh);
    fresh.andNot(arriving.named);
    arriving.named.or(fresh);
    // Only touched pages have memory behind them that can be given up.
    fresh.and((receiver as PageReceiver).board.touched);
    const block = vm.memory.blocks[frame.block] as RamBlock;
    await giveUpPages(block, fresh.at(frame.block), this.#context.options.clock, () => connection.signal.aborted);
  }

  #mayOvertake(type: string): void {
    if (!onChannels(this.#arriving)) throw notAgreed(type, FEATURES.deviceChannels);
  }

  async #device(connection: IncomingConnection, frame: DeviceFrame, payloadBytes: number): Promise<void> {
    await readPiece(this.#context, connection, connection.control, frame, payloadBytes);
  }

  /** Begins to load, once all pieces have come that were sent on page channels before `switchover`. */
  #switchover(connection: IncomingConnection, { round, attempt, runState, deviceSequences }: SwitchoverFrame): void {
    this.#checkAttempt('switchover', attempt);
    const arriving = this.#arriving;
    (arriving.receiver as PageReceiver).seal(round);
    arriving.runState = runState;
    this.#question++;
    if (!onChannels(arriving)) {
      this.#lead(this.#context.phases.load(arriving));
      return;
    }
    this.#switchingOver = true;
    const given = deviceSequences ?? arriving.loader.sequences;
    void arriving.loader.complete(attempt, given).then(() => {
      if (this.#context.serving !== this || arriving.attempt !== attempt || connection.signal.aborted) return;
      this.#lead(this.#context.phases.load(arriving));
    });
  }

  /** Answers `prepared` once the VM is built and its devices have loaded all state that has come; frames are read meanwhile. */
  #prepare(connection: IncomingConnection, { attempt, deviceSequences }: PrepareFrame): void {
    this.#checkAttempt('prepare', attempt);
    const question = ++this.#question;
    const { vm, loader, welcome, forecast } = this.#arriving;
    const { options } = this.#context;
    // A question that has not been answered before `switchover` is not answered any more.
    const current = () => question === this.#question && !connection.signal.aborted;
    const prepared = async (): Promise<void> => {
      await vm.prepared?.();
      if (welcome.features.includes(FEATURES.postcopy)) await options.faults?.ready();
      await loader.prepared(deviceSequences);
    };
    const answer = async (): Promise<void> => {
      if (current()) await this.#tellOwed(connection);
      const { incarnation } = welcome;
      if (!current()) return;
      await connection.write({ type: 'prepared', incarnation, attempt, deviceSequences, ...forecast.told() });
    };
    prepared().then(
      // A failure to write is ignored: a lost link is noticed by reading from it, and the source then asks again.
      () => answer().catch(() => {}),
      (error: unknown) => {
        if (!current()) return;
        this.#context.session.end.set(
          GodwitError.wrap(error, 'GODWIT_PREPARE_FAILED', 'the destination could not be prepared for the switchover'),
        );
      },
    );
  }

  /** Sends `owed` with the pages that loads of given-up attempts have written, once over each connection. */
  async #tellOwed(connection: IncomingConnection): Promise<void> {
    const { loader, receiver } = this.#arriving;
    if (this.#owedToldOn === connection || loader.owed.isEmpty()) return;
    this.#owedToldOn = connection;
    // A page that a load has written may be other than zero, even if the source has never sent it.
    (receiver as PageReceiver).board.touched.or(loader.owed);
    await writeNamed(this.#context, this.#arriving, connection, 'owed', loader.owed);
  }

  #checkAttempt(type: string, attempt: number): void {
    const known = this.#arriving.attempt;
    if (attempt === known) return;
    throw new GodwitError(
      'GODWIT_PROTOCOL',
      `"${type}" is for attempt ${attempt}, but the source is in attempt ${known}`,
    );
  }
}

function notAgreed(type: string, feature: string): GodwitError {
  return new GodwitError('GODWIT_PROTOCOL', `the source sent "${type}", though "${feature}" was not agreed on`);
}
