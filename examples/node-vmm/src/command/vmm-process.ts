import { constants } from 'node:os';
import { join } from 'node:path';
import type { Writable } from 'node:stream';
import { GodwitError, type IncomingMigration } from '@godwit/core';
import { controlFolder, makeControlFolder, socketName } from '../control/control-folder.js';
import { ControlServer } from '../control/control-server.js';
import { handlersOf, type VmmProcess } from '../control/vmm-handlers.js';
import type { VirtioHost } from '../virtio/virtio-devices.js';
import type { Departure } from '../vmm/departure.js';
import type { ListeningAt } from '../vmm/links.js';
import { type ReceiveSettings, Vmm } from '../vmm/vmm.js';
import { ArrivalOutput } from './arrival-output.js';
import { ArrivalPage } from './arrival-page.js';
import { EXIT, exitStatusOf } from './exit-status.js';
import { onInterruption } from './interruptions.js';
import { type Input, typeFrom } from './terminal-input.js';

/** How long closing may take before the process kills itself: it waits for vCPU threads, of which one may hang in the kernel. Milliseconds. */
const LAST_RESORT_MS = 10_000;

/** The most VMMs of one user whose control sockets have default paths. */
const MOST_SOCKETS = 100;

export interface VmmOutput {
  /** Where the guest's console is written; undefined: nowhere. */
  readonly console: Writable | undefined;
  /** Where the VMM's own messages are written. */
  readonly messages: Writable;
  /** The input for the console of a guest that reads its console; undefined: no input. */
  readonly input?: Input | undefined;
}

export interface VmmRunOptions {
  /** As in `GuestSurroundings`. Default false. */
  readonly dirtyRing?: boolean;
  /** As in `GuestSurroundings`. Default: nothing. */
  readonly virtio?: VirtioHost;
}

export interface Arrival {
  readonly listening: ListeningAt;
  readonly settings: ReceiveSettings;
  /** Whether the process ends when the first attempt fails. */
  readonly once: boolean;
  /** The port of a live page of the arrival, 0 for a free one; undefined: no page. */
  readonly page?: number | undefined;
}

/** An attempt to receive a guest. */
interface Attempt {
  readonly incoming: IncomingMigration;
  readonly arrival: Promise<unknown>;
  /** Whether a source has connected. */
  readonly came: () => boolean;
}

/** The reason why the process ends. */
interface End {
  readonly status: number;
  readonly message: string;
}

/** A process with a VMM, from its start to its end: `run`, `receive` and `restore`. */
export class VmmRun implements VmmProcess {
  readonly vmm: Vmm;
  readonly #output: VmmOutput;
  readonly #input: Input | undefined;
  #giveBackInput: () => void = () => {};
  #page: ArrivalPage | undefined;
  readonly #over: Promise<End>;
  #end: (end: End) => void = () => {};
  #ending = false;

  constructor(output: VmmOutput, { dirtyRing = false, virtio = {} }: VmmRunOptions = {}) {
    this.#output = output;
    this.#input = output.input;
    this.#over = new Promise((resolve) => {
      this.#end = resolve;
    });
    this.vmm = new Vmm({
      blindTracker: undefined,
      dirtyRing,
      virtio,
      onDeviceBroken: (device, reason) => this.tell(`the guest has broken its device ${device}: ${reason}`),
      onConsole: (text) => output.console?.write(text),
      onCrashed: (error) => this.#failed(error),
      onEnded: ({ message }) => this.#finish(EXIT.done, message),
    });
  }

  /**
   * Serves the control socket, calls `start`, and waits for the end: `quit`, a signal, a guest that has moved away or crashed. Resolves
   * with the exit status, and leaves nothing open.
   *
   * @param control the path of the control socket; by default the first of the user's folder that is free
   */
  async run(control: string | undefined, start: () => Promise<void>): Promise<number> {
    const undo = onInterruption(
      (signal) => {
        const { atStake } = this.vmm;
        if (atStake === undefined) this.#finish(EXIT.done, `ended by ${signal}`);
        else this.tell(`${atStake}: the next ${signal} ends it all the same`);
      },
      (signal) => process.exit(128 + constants.signals[signal]),
    );
    this.#output.console?.on('error', () => this.#finish(EXIT.done, 'nobody reads the console any more'));
    let server: ControlServer | undefined;
    try {
      server = await this.#listen(control);
      this.tell(`control socket: ${server.path}`);
      await start();
      this.#attachInput();
    } catch (error) {
      this.#failed(error);
    }
    const { status, message } = await this.#over;
    this.tell(message);
    // A thread that hangs in the kernel would keep the process alive.
    const lastResort = setTimeout(() => process.kill(process.pid, 'SIGKILL'), LAST_RESORT_MS);
    await server?.close();
    await this.vmm.close('the VMM ends');
    await this.#page?.close();
    clearTimeout(lastResort);
    this.#giveBackInput();
    undo();
    return status;
  }

  tell(text: string): void {
    this.#output.messages.write(`[vmm] ${text}\n`);
  }

  /** Passes the input to the console of the guest that runs here, if that guest reads its console. */
  #attachInput(): void {
    if (this.#input === undefined || this.vmm.guest?.readsConsole !== true) return;
    const type = (bytes: Uint8Array): void => {
      try {
        this.vmm.guest?.type(bytes);
      } catch (error) {
        this.tell(`what was typed is lost: ${(error as Error).message}`);
      }
    };
    this.#giveBackInput = typeFrom(this.#input, type, () => this.#finish(EXIT.done, 'ended by Ctrl-]'));
  }

  /**
   * Begins to receive a guest. Unless `once`, a failed attempt is followed by another.
   *
   * @throws GodwitError GODWIT_INVALID_ARGUMENT when the page cannot be served at its port
   */
  async receive({ listening, settings, once, page }: Arrival): Promise<void> {
    this.vmm.listen(listening);
    const { address } = listening;
    const restores = address.startsWith('file:');
    const output = new ArrivalOutput((text) => this.tell(text));
    let attempt = this.#attempt(settings, output);
    if (page !== undefined) {
      this.#page = new ArrivalPage(page, restores ? `Restoring ${address}` : `A guest comes to ${address}`);
      this.tell(`page: ${await this.#page.show(attempt.incoming)}`);
    }
    this.tell(restores ? `restoring ${address}` : `a guest may come to ${address}`);
    const receive = async (): Promise<void> => {
      for (;;) {
        try {
          await attempt.arrival;
          this.#attachInput();
          return;
        } catch (error) {
          // If no source has connected, the listener itself has failed.
          const last = once || !attempt.came() || this.#ending || this.vmm.guest !== undefined;
          if (last) throw error;
          this.tell(`${(error as Error).message}; another guest may come to ${address}`);
        }
        attempt = this.#attempt(settings, output);
        await this.#page
          ?.show(attempt.incoming)
          .catch(({ message }: Error) => this.tell(`no page any more: ${message}`));
      }
    };
    receive().catch((error: unknown) => this.#failed(error));
  }

  #attempt(settings: ReceiveSettings, output: ArrivalOutput): Attempt {
    const incoming = this.vmm.receive(settings);
    let came = false;
    incoming.subscribe((event) => {
      if (event.type === 'hello') came = true;
      output.event(event);
    });
    const arrival = this.vmm.arrival();
    // The loop of `receive` takes a failure, once the page is there.
    arrival.catch(() => {});
    return { incoming, arrival, came: () => came };
  }

  departs({ to, migration }: Departure): void {
    this.tell(`the guest is being moved to ${to}`);
    migration.result.catch(({ code, message }: GodwitError) =>
      this.tell(`it was not moved to ${to}: ${code}: ${message}`),
    );
  }

  moved(to: string): void {
    this.#finish(EXIT.done, `the guest has moved to ${to}`);
  }

  quit(): void {
    this.#finish(EXIT.done, 'ended by quit');
  }

  #failed(error: unknown): void {
    const { code, message } = GodwitError.wrap(error, 'GODWIT_INTERNAL', 'the VMM failed');
    this.#finish(exitStatusOf(error), `error: ${code}: ${message}`);
  }

  /** Ends the process. The first reason counts. A reply that is under way is written first. */
  #finish(status: number, message: string): void {
    this.#ending = true;
    setImmediate(this.#end, { status, message });
  }

  async #listen(control: string | undefined): Promise<ControlServer> {
    const handlers = handlersOf(this.vmm, this);
    if (control !== undefined) return ControlServer.listen(control, handlers);
    const folder = makeControlFolder(controlFolder());
    for (let n = 1; ; n++) {
      try {
        return await ControlServer.listen(join(folder, socketName(n)), handlers);
      } catch (error) {
        if (n === MOST_SOCKETS || !GodwitError.is(error) || error.code !== 'GODWIT_CONNECT_FAILED') throw error;
      }
    }
  }
}
