import {
  ANY_STREAM_FRAMES,
  FEATURES,
  FRAME_TYPES,
  type Frame,
  type FrameStream,
  GodwitError,
  type IncomingLink,
  type MigratableDevice,
  type MigratableVm,
  PAGE_CHANNEL_FRAMES,
  receive,
} from '@godwit/core';
import { ToyFaultService } from '@godwit/core/testing';
import { frameStream } from '@godwit/transport';
import { Decisions } from './decisions.js';
import { BLOCK_PAGES, DEVICES, encodeFrames, exampleMigrations, MIGRATION_ID, PAGE } from './example-frames.js';
import { fastClock } from './fast-clock.js';
import { type FuzzTarget, mustSettle } from './fuzz-target.js';
import { GuardedMemory } from './guarded-memory.js';
import { HostileSource } from './hostile-source.js';
import { Judge } from './judge.js';
import { scriptedStream } from './scripted-stream.js';

/** Turns of the event loop within which a destination must notice that its link is gone. */
const PATIENCE = 1000;

/** Before each of these frames the source waits for an answer. */
const AFTER_AN_ANSWER: readonly unknown[] = (['digests', 'digestsEnd', 'go', 'released'] as const).map(
  (name) => FRAME_TYPES[name],
);

/** The page that `nic` writes when it loads. */
const LOAD_WRITES = { block: 0, firstPage: 4, pageCount: 1 } as const;

/** Bytes of a source, well-formed or not, into the destination. */
export const destinationBytesTarget: FuzzTarget = {
  name: 'destination-bytes',
  description: 'bytes of a source into the destination',
  longest: 64 * 1024,
  seeds: () => Promise.all(exampleMigrations().map((frames) => encodeFrames(frames))),
  async run(input) {
    const carrier = scriptedStream(input, 1 + (input.length % 5) * 1000, pausesIn(input));
    await attempt(frameStream(carrier), [], undefined);
  },
};

/**
 * The offsets at which the source waits for an answer: after its hello, and before some frames, as far as the bytes are frames.
 */
function pausesIn(input: Uint8Array): number[] {
  const bytes = Buffer.from(input.buffer, input.byteOffset, input.byteLength);
  const pauses: number[] = [];
  for (let at = 0; at + 7 <= bytes.length && bytes[at] === 0xce; ) {
    // The header is an array of fewer than 16 elements, so that its second byte is the type.
    if (pauses.length === 0 ? at > 0 : AFTER_AN_ANSWER.includes(bytes[at + 6])) pauses.push(at);
    at += 5 + bytes.readUInt32BE(at + 1);
    if (at + 5 <= bytes.length && bytes[at] === 0xc6) at += 5 + bytes.readUInt32BE(at + 1);
  }
  return pauses;
}

/** Frames that are well-formed but wrong in their contents, their time or their channel. */
export const destinationFramesTarget: FuzzTarget = {
  name: 'destination-frames',
  description: 'a hostile source, frame by frame, with page channels, into the destination',
  longest: 512,
  // Each seed begins with the number of the example that it follows, and the number of page channels. The rest makes the source
  // deviate from the example, or not.
  seeds: async () => {
    const begin = exampleMigrations().flatMap((_, script) => [0, 2].map((channels) => [script, channels]));
    const deviating = [new Array<number>(62).fill(255), new Array<number>(6).fill(0)];
    return begin.flatMap((bytes) => [[], ...deviating].map((more) => Uint8Array.of(...bytes, ...more)));
  },
  async run(input) {
    const decisions = new Decisions(input);
    const example = decisions.pick(exampleMigrations());
    const pageChannels = decisions.below(3);
    const urgent = example.some((frame) => frame.type === 'hello' && frame.features.includes(FEATURES.postcopy));
    const streams = pageChannels + (urgent ? 1 : 0);
    const script = example.map((frame) => (frame.type === 'hello' ? { ...frame, pageChannels: streams } : frame));
    // With two channels, device state travels on the second one, and frames of the control stream may overtake it.
    const isPage = ({ type }: Frame) =>
      PAGE_CHANNEL_FRAMES.includes(type) || (pageChannels === 2 && ANY_STREAM_FRAMES.includes(type));
    const judge = new Judge('source');
    const control = pageChannels === 0 ? script : script.filter((frame) => !isPage(frame));
    const channels = Array.from({ length: pageChannels }, (_, index) => {
      const share = script.filter((frame) => {
        if (ANY_STREAM_FRAMES.includes(frame.type)) return isPage(frame) && index === 1;
        return isPage(frame) && (index === 0 || frame.type === 'roundEnd');
      });
      const frames = share.map((frame) => (frame.type === 'roundEnd' && index > 0 ? { ...frame, pages: 0 } : frame));
      return new HostileSource(decisions, frames, judge, index + 1);
    });
    if (urgent) channels.push(new HostileSource(decisions, [], judge, streams, true));
    await attempt(new HostileSource(decisions, control, judge), channels, judge);
  },
};

/** Devices that report a second `load` while one is pending. */
function devicesOf(memory: GuardedMemory, onLapse: (lapse: string) => void, onBytes: (bytes: number) => void) {
  return DEVICES.map((id): MigratableDevice => {
    let loads = 0;
    const device: MigratableDevice = {
      id,
      version: 1,
      async *save() {},
      async load(state) {
        if (++loads > 1) onLapse(`device "${id}" is loaded while it loads`);
        try {
          for await (const chunk of state) onBytes(chunk.byteLength);
          if (id === 'nic') memory.blocks[LOAD_WRITES.block]?.view(LOAD_WRITES.firstPage * PAGE, PAGE).fill(0x77);
        } finally {
          loads--;
        }
      },
    };
    if (id === 'cpu') return device;
    return Object.assign(device, {
      async *precopy() {},
      reset: async () => {},
      loadWrites: () => [LOAD_WRITES],
    });
  });
}

/**
 * Runs one incoming migration and checks that it ends, with a reason; that nothing outside RAM is written; and that a guest
 * runs only if it was handed over by a source that has kept to the protocol, as far as a `judge` can tell.
 */
async function attempt(
  control: FrameStream,
  channels: readonly FrameStream[],
  judge: Judge | undefined,
): Promise<void> {
  const memory = new GuardedMemory(BLOCK_PAGES);
  let resumed = 0;
  let abandoned = 0;
  let prepared = 0;
  let stateBytes = 0;
  let lapse: string | undefined;
  let left: readonly Uint8Array[] | undefined;
  const faults = new ToyFaultService();
  const ram = () => memory.blocks.map((block) => block.view(0, block.byteLength).slice());
  const vm: MigratableVm = {
    memory,
    trackers: [],
    devices: devicesOf(
      memory,
      (said) => {
        lapse ??= said;
      },
      (bytes) => {
        stateBytes += bytes;
      },
    ),
    pause: async () => {},
    resume: async () => {
      resumed++;
      // Two vCPUs, one for each block, which wait for each page of their block in turn.
      for (const block of [0, 1]) void touchAll(faults, block, BLOCK_PAGES[block] as number);
    },
    abandon: async () => {
      abandoned++;
      left = ram();
    },
  };
  let letGo: () => void = () => {};
  const dropped = new Promise<void>((resolve) => {
    letGo = resolve;
  });
  const link: IncomingLink = {
    control: watched(control, letGo),
    peer: 'fuzz:',
    pageChannels: async (migrationId, count) => {
      if (migrationId !== MIGRATION_ID) throw new GodwitError('GODWIT_PROTOCOL', 'unknown migration');
      if (count !== channels.length) throw new GodwitError('GODWIT_TIMEOUT', `${channels.length} of ${count} came`);
      return channels;
    },
  };
  let accepted = false;
  const incoming = receive(
    {
      accept: (signal) => {
        if (accepted) return new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)));
        accepted = true;
        return Promise.resolve(link);
      },
      close: async () => {},
    },
    {
      prepare: () => {
        prepared++;
        return vm;
      },
      faults,
      progressIntervalMs: 0,
      clock: fastClock,
      handshakeTimeoutMs: 1000,
      reconnectTimeoutMs: 0,
      settleTimeoutMs: 0,
      maximumDeviceState: 4096,
    },
  );
  const ending = incoming.result.then(
    () => 'runs' as const,
    (error: unknown) => error,
  );
  await mustSettle(Promise.race([dropped, ending]), 'the link');
  let over = false;
  const ended = () => {
    over = true;
  };
  void ending.then(ended);
  // A destination that no source has reached yet, or that is ready to run its guest, waits for another link without a limit.
  // That is correct.
  for (let turn = 0; !over && turn < PATIENCE; turn++) {
    if (incoming.state === 'none' || incoming.ownership === 'ready') incoming.cancel();
    incoming.giveUpPages();
    await new Promise((resolve) => setImmediate(resolve));
  }
  const outcome = await mustSettle(ending, 'the incoming migration');
  memory.check();
  if (stateBytes > 2 ** 20) throw new Error(`${stateBytes} bytes of device state were loaded`);
  if (lapse !== undefined) throw new Error(lapse);
  if (left?.some((block, index) => Buffer.compare(block, ram()[index] as Uint8Array) !== 0)) {
    throw new Error('guest memory was written after the VM was abandoned');
  }
  if (outcome === 'runs') {
    if (abandoned !== 0 || resumed > 1) throw new Error(`completed: resumed ${resumed} times, abandoned ${abandoned}`);
    if (judge !== undefined) mustBeHandedOver(judge, resumed);
    return;
  }
  if (!GodwitError.is(outcome)) throw new Error('it ended with something else than a GodwitError', { cause: outcome });
  if (outcome.code === 'GODWIT_PAGES_MISSING') {
    if (abandoned !== 0 || resumed > 1)
      throw new Error(`pages are missing: resumed ${resumed} times, abandoned ${abandoned}`);
    if (judge !== undefined) mustBeHandedOver(judge, resumed);
    return;
  }
  if (outcome.code === 'GODWIT_INTERNAL') throw new Error('an error that nobody foresaw', { cause: outcome });
  if (resumed !== 0 || abandoned !== prepared) {
    throw new Error(`failed with ${outcome.code}: resumed ${resumed} times, abandoned ${abandoned} of ${prepared}`);
  }
}

async function touchAll(faults: ToyFaultService, block: number, pages: number): Promise<void> {
  for (let page = 0; page < pages; page++) await faults.served.at(-1)?.touch(block, page);
}

/** The guest runs here: check that a `go` for the last `ready` came, and that no frame before it was illegal. */
function mustBeHandedOver(judge: Judge, resumed: number): void {
  judge.settled();
  const { illegal, seen } = judge;
  const lastReady = seen.findLastIndex(({ type }) => type === 'ready');
  const ready = seen[lastReady];
  const behind = seen.slice(lastReady + 1);
  const go = behind.find((frame) => frame.type === 'go' && ready?.type === 'ready' && frame.attempt === ready.attempt);
  if (go === undefined || behind.slice(0, behind.indexOf(go)).some(({ type }) => type === 'back')) {
    throw new Error(`runs the guest without a "go" for its last "ready": ${seen.map(({ type }) => type).join(' ')}`);
  }
  const switchover = seen.findLast((frame) => frame.type === 'switchover');
  const runs = switchover?.type === 'switchover' && switchover.runState === 'running';
  if ((resumed === 1) !== runs) throw new Error(`resumed ${resumed} times, where it ${runs ? 'ran' : 'was paused'}`);
  if (illegal.length > 0) throw new Error(`runs the guest in spite of ${illegal.join(', ')}`);
}

/** The same stream; `letGo` is called when the destination has closed or dropped it. */
function watched(stream: FrameStream, letGo: () => void): FrameStream {
  return {
    get bytesWritten() {
      return stream.bytesWritten;
    },
    get bytesRead() {
      return stream.bytesRead;
    },
    write: (frame, payload) => stream.write(frame, payload),
    read: () => stream.read(),
    readPayload: (into) => stream.readPayload(into),
    skipPayload: () => stream.skipPayload(),
    async close() {
      letGo();
      await stream.close();
    },
    abort(reason) {
      letGo();
      stream.abort(reason);
    },
  };
}
