import {
  type Frame,
  type FrameStream,
  type GodwitError,
  type HelloFrame,
  type IncomingEvent,
  type IncomingLink,
  type IncomingMigration,
  type LinkListener,
  type ReceiveOptions,
  receive,
} from '@godwit/core';
import { FaultyDevice, type MemoryLink, memoryLink, ToyVm, VirtualClock } from '@godwit/core/testing';
import { expect } from '@jest/globals';
import { BLOCKS, codeOf, PAGE } from './toy-migration.js';

/** Plays the source by hand against `receive`. */
export class PlayedSource {
  readonly clock = new VirtualClock();
  readonly link: MemoryLink = memoryLink({ clock: this.clock, capacity: 64 });
  readonly vm = new ToyVm(BLOCKS, { running: false, devices: [new FaultyDevice('uart'), new FaultyDevice('rtc')] });
  readonly incoming: IncomingMigration;
  control!: FrameStream;
  pages: readonly FrameStream[] = [];
  heard: Frame[] = [];
  readonly lost: GodwitError[] = [];
  readonly events: IncomingEvent[] = [];
  /** Whether the streams of the next connection have checksums. */
  checksums = false;

  /** `through`: what the destination's listener is wrapped in. */
  constructor(
    maximumDeviceState = 100_000,
    options: Partial<ReceiveOptions> = {},
    through: (listener: LinkListener) => LinkListener = (listener) => listener,
  ) {
    const { link, clock, vm } = this;
    this.incoming = receive(through(link.listener), { prepare: () => vm, clock, maximumDeviceState, ...options });
    this.incoming.subscribe((event) => {
      this.events.push(event);
      if (event.type === 'link-lost') this.lost.push(event.reason);
    });
  }

  /** The events of one type. */
  eventsOf<T extends IncomingEvent['type']>(type: T): Extract<IncomingEvent, { type: T }>[] {
    return this.events.filter((event): event is Extract<IncomingEvent, { type: T }> => event.type === type);
  }

  /** The frames of one type that the destination has sent over this connection. */
  heardOf<T extends Frame['type']>(type: T): Extract<Frame, { type: T }>[] {
    return this.heard.filter((frame): frame is Extract<Frame, { type: T }> => frame.type === type);
  }

  /** Comes back over another connection, after the link was cut. */
  async again(change: Partial<HelloFrame> = {}): Promise<void> {
    this.link.cut();
    this.heard = [];
    await this.hello({ connection: 2, ...change });
  }

  async connect(pageChannels = 0): Promise<void> {
    const link = await this.link.connector.connect(
      { migrationId: ID, pageChannels, connection: 1, checksums: this.checksums },
      new AbortController().signal,
    );
    this.control = link.control;
    this.pages = link.pageChannels;
    void this.#listen(link.control);
  }

  async hello(change: Partial<HelloFrame> = {}): Promise<void> {
    const hello = { ...HELLO, ...change };
    await this.connect(
      Number.isInteger(hello.pageChannels) && hello.pageChannels < 8 ? Math.max(0, hello.pageChannels) : 0,
    );
    await this.send(hello);
  }

  /** Writes frames one after the other; a destination that has let go is no failure here. */
  async send(...frames: readonly (Frame | readonly [Frame, Uint8Array] | undefined)[]): Promise<void> {
    for (const item of frames) {
      if (item === undefined) continue;
      const [frame, payload] = Array.isArray(item) ? (item as [Frame, Uint8Array]) : [item as Frame, undefined];
      await this.control.write(frame, payload === undefined ? undefined : [payload]).catch(() => {});
    }
  }

  /** What the destination ended with; it must have let go of everything, and never have run the guest. */
  async refused(): Promise<string | undefined> {
    const [result] = await Promise.allSettled([this.incoming.result]);
    await this.control.close().catch(() => {});
    expect(this.vm.running).toBe(false);
    expect(this.vm.resumes).toBe(0);
    expect(this.incoming.state).toBe('failed');
    expect(this.link.openStreams).toBe(0);
    return codeOf(result as PromiseSettledResult<unknown>);
  }

  /** Why the link was dropped: a destination that is ready goes on waiting for another one. */
  async dropped(): Promise<string | undefined> {
    await this.clock.sleep(1);
    expect([this.incoming.ownership, this.vm.running, this.vm.resumes]).toEqual(['ready', false, 0]);
    expect(this.link.openStreams).toBe(0);
    return this.lost.at(-1)?.code;
  }

  /** Resolves when the destination has said this. */
  async hear(type: Frame['type']): Promise<void> {
    while (!this.heard.some((frame) => frame.type === type)) {
      await this.clock.sleep(1);
      if (this.clock.now() > 60_000) throw new Error(`"${type}" never came, but ${JSON.stringify(this.heard)}`);
    }
  }

  async #listen(stream: FrameStream): Promise<void> {
    try {
      for (;;) {
        const received = await stream.read();
        if (received === null) return;
        this.heard.push(received.frame);
        if (received.frame.type === 'error') void stream.close();
      }
    } catch {
      // Dropped.
    }
  }
}

export const ID = '0123456789abcdef0123456789abcdef';
export const HELLO: HelloFrame = {
  type: 'hello',
  minimumVersion: 2,
  maximumVersion: 2,
  migrationId: ID,
  software: 'hostile/1',
  pageSize: PAGE,
  blocks: BLOCKS.map((block) => ({ ...block, identity: '' })),
  devices: [
    { id: 'uart', version: 1, stateBytes: 0 },
    { id: 'rtc', version: 1, stateBytes: 0 },
  ],
  features: ['verify'],
  pageChannels: 0,
  description: null,
  connection: 1,
  stage: 'running',
  attempt: 1,
};
export const pages = (runs: readonly number[], bytes: number, change: object = {}) =>
  [{ type: 'pages', round: 1, block: 0, runs, ...change }, new Uint8Array(bytes).fill(7)] as unknown as readonly [
    Frame,
    Uint8Array,
  ];
export const zero = (runs: readonly unknown[], change: object = {}) =>
  ({ type: 'zeroPages', round: 1, block: 0, runs, ...change }) as unknown as Frame;
export const end = (count: number, round = 1): Frame => ({ type: 'roundEnd', round, pages: count });
/** A piece that comes while the guest runs; with an attempt, one of a stop-and-copy. */
export const device = (index: number, sequence: number, last: boolean, bytes = 1, attempt = 0) =>
  [{ type: 'device', device: index, sequence, last, attempt } as const, new Uint8Array(bytes)] as const;
export const DEVICES = [device(0, 0, true, 1, 1), device(1, 0, true, 1, 1)] as const;
export const SWITCHOVER = { type: 'switchover', round: 1, attempt: 1, runState: 'running' } as const;
export const GO: Frame = { type: 'go', attempt: 1 };
export const READY = [pages([0, 1], PAGE), end(1), ...DEVICES, SWITCHOVER] as const;
export const digests = (runs: readonly number[], bytes: number) =>
  [{ type: 'digests', block: 0, runs } as const, new Uint8Array(bytes)] as const;

/** Changes the links that a listener accepts. */
export const through =
  (change: (link: IncomingLink) => Partial<IncomingLink>) =>
  (listener: LinkListener): LinkListener => ({
    accept: async (signal) => {
      const link = await listener.accept(signal);
      const pageChannels: IncomingLink['pageChannels'] = (...all) => link.pageChannels(...all);
      return { control: link.control, peer: link.peer, pageChannels, ...change(link) };
    },
    close: () => listener.close(),
  });

/** Makes the first write of a frame of this type fail; the stream is whole otherwise. */
export const failingOnce = (type: Frame['type'], error: Error) => beforeFirst(type, () => Promise.reject(error));

/** Calls `wait` before the first frame of this type is written; when it rejects, the write fails. */
export function beforeFirst(type: Frame['type'], wait: () => Promise<void>): (listener: LinkListener) => LinkListener {
  let waited = false;
  return through(({ control }) => {
    const write: FrameStream['write'] = async (frame, payload) => {
      if (!waited && frame.type === type) {
        waited = true;
        await wait();
      }
      return control.write(frame, payload);
    };
    const changed = new Proxy(control, {
      get: (stream, name) => {
        if (name === 'write') return write;
        const value: unknown = Reflect.get(stream, name, stream);
        return typeof value === 'function' ? value.bind(stream) : value;
      },
    });
    return { control: changed };
  });
}
