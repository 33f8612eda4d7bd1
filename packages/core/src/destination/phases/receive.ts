import { GodwitError } from '../../errors.js';
import type { ReceivedFrame } from '../../link/frame-stream.js';
import type { DeviceFrame, HelloFrame, PrepareFrame, SwitchoverFrame } from '../../protocol/frame.js';
import type { Arriving, DestinationContext, DestinationPhase, ServingPhase } from '../destination-context.js';
import { acknowledgeBack, goBackTo } from '../go-back.js';
import type { IncomingConnection } from '../incoming-connection.js';
import type { PageReceiver } from '../page-receiver.js';
import { checkPayload, isPageFrame, takePageFrame } from '../read-page-channel.js';
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
  /** The connection over which the source was told which pages loads have written. */
  #owedToldOn: IncomingConnection | undefined;

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
    const { attempt } = this.#arriving;
    if (hello.attempt > attempt) goBackTo(this.#context, this.#arriving, hello.attempt);
    return this;
  }

  handle(received: ReceivedFrame): void | Promise<void> {
    const { frame, payloadBytes } = received;
    checkPayload(frame.type, payloadBytes);
    const connection = this.#connection;
    if (isPageFrame(frame.type)) return this.#pages(connection, received);
    switch (frame.type) {
      case 'device':
        return this.#device(connection, frame, payloadBytes);
      case 'prepare':
        this.#prepare(connection, frame);
        return;
      case 'switchover':
        this.#switchover(frame);
        return;
      case 'back':
        this.#checkAttempt('back', frame.attempt);
        goBackTo(this.#context, this.#arriving, frame.attempt + 1);
        return acknowledgeBack(connection, this.#arriving, frame.attempt);
      case 'probe':
        return connection.control.skipPayload();
      default:
    }
  }

  get #connection(): IncomingConnection {
    const { current } = this.#context.session;
    if (current === undefined) throw new GodwitError('GODWIT_INTERNAL', 'a frame without a connection');
    return current;
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

  async #device(connection: IncomingConnection, frame: DeviceFrame, payloadBytes: number): Promise<void> {
    if (frame.attempt !== 0) this.#checkAttempt('device', frame.attempt);
    const { loader } = this.#arriving;
    loader.admit(frame, payloadBytes);
    const chunk = new Uint8Array(payloadBytes);
    if (payloadBytes > 0) await connection.control.readPayload([chunk]);
    if (!connection.signal.aborted) loader.accept(frame, chunk);
  }

  #switchover({ round, attempt, runState }: SwitchoverFrame): void {
    this.#checkAttempt('switchover', attempt);
    const arriving = this.#arriving;
    (arriving.receiver as PageReceiver).seal(round);
    arriving.runState = runState;
    this.#question++;
    this.#lead(this.#context.phases.load(arriving));
  }

  /** Answers `prepared` once the VM is built and its devices have loaded all state that has come; frames are read meanwhile. */
  #prepare(connection: IncomingConnection, { attempt, deviceSequences }: PrepareFrame): void {
    this.#checkAttempt('prepare', attempt);
    const question = ++this.#question;
    const { vm, loader, welcome, forecast } = this.#arriving;
    const current = () => question === this.#question && this.#context.serving === this && !connection.signal.aborted;
    const prepared = async (): Promise<void> => {
      await vm.prepared?.();
      await loader.prepared(deviceSequences);
    };
    const answer = async (): Promise<void> => {
      if (current()) await this.#tellOwed(connection);
      const { incarnation } = welcome;
      if (!current()) return;
      await connection.write({ type: 'prepared', incarnation, attempt, deviceSequences, ...forecast.told() });
    };
    prepared().then(
      // A failure to write is ignored: a lost link is noticed by reading it, and the source then asks again.
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
    // A page that was loaded into may not be zero, even if the source has never sent it.
    receiver?.board.touched.or(loader.owed);
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
