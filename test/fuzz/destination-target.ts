import { type FrameStream, GodwitError, type IncomingLink, type MigratableVm, receive } from '@godwit/core';
import { frameStream } from '@godwit/transport';
import { Decisions } from './decisions.js';
import { BLOCK_PAGES, encodeFrames, exampleFrames, MIGRATION_ID } from './example-frames.js';
import { fastClock } from './fast-clock.js';
import { type FuzzTarget, mustSettle } from './fuzz-target.js';
import { GuardedMemory } from './guarded-memory.js';
import { HostileSource } from './hostile-source.js';
import { scriptedStream } from './scripted-stream.js';

/** Turns of the event loop that a destination is given to see that its link is gone. */
const PATIENCE = 1000;

/** Bytes of a `go` frame, and of `released` behind it: before each of them the source waits for an answer. */
const SHORTEST_FRAME = 7;

/** Bytes of a source, well-formed or not, into the destination. */
export const destinationBytesTarget: FuzzTarget = {
  name: 'destination-bytes',
  description: 'bytes of a source into the destination',
  longest: 64 * 1024,
  seeds: async () => [await encodeFrames(exampleFrames())],
  async run(input) {
    const hello = input.length < 5 ? 0 : 5 + Buffer.from(input.buffer, input.byteOffset).readUInt32BE(1);
    const carrier = scriptedStream(input, 1 + (input.length % 5) * 1000, [
      hello,
      input.length - 2 * SHORTEST_FRAME,
      input.length - SHORTEST_FRAME,
    ]);
    await attempt(frameStream(carrier), [], () => true);
  },
};

/** Frames that are well-formed and wrong: what they mean, when they come, on which channel. */
export const destinationFramesTarget: FuzzTarget = {
  name: 'destination-frames',
  description: 'a hostile source, frame by frame, with page channels, into the destination',
  longest: 512,
  seeds: async () => [new Uint8Array(64).fill(255), new Uint8Array(8)],
  async run(input) {
    const decisions = new Decisions(input);
    const pageChannels = decisions.below(3);
    const script = exampleFrames().map((frame) => (frame.type === 'hello' ? { ...frame, pageChannels } : frame));
    const isPage = (type: string) => type.endsWith('ages') || type === 'roundEnd';
    const control = new HostileSource(
      decisions,
      pageChannels === 0 ? script : script.filter((frame) => !isPage(frame.type)),
      true,
    );
    const channels = Array.from({ length: pageChannels }, (_, index) => {
      const share = script.filter(({ type }) => isPage(type) && (index === 0 || type === 'roundEnd'));
      return new HostileSource(
        decisions,
        share.map((frame) => (frame.type === 'roundEnd' && index > 0 ? { ...frame, pages: 0 } : frame)),
        false,
      );
    });
    await attempt(control, channels, () => control.sent.some((frame) => frame.type === 'go'));
  },
};

/** One incoming migration: it ends, with a reason; nothing outside RAM is written; nobody runs a guest that was not handed over. */
async function attempt(control: FrameStream, channels: readonly FrameStream[], goSent: () => boolean): Promise<void> {
  const memory = new GuardedMemory(BLOCK_PAGES);
  let resumed = 0;
  let abandoned = 0;
  let prepared = 0;
  let stateBytes = 0;
  const vm: MigratableVm = {
    memory,
    trackers: [],
    devices: [
      {
        id: 'cpu',
        version: 1,
        async *save() {},
        async load(state) {
          for await (const chunk of state) stateBytes += chunk.byteLength;
        },
      },
    ],
    pause: async () => {},
    resume: async () => {
      resumed++;
    },
    abandon: async () => {
      abandoned++;
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
      progressIntervalMs: 0,
      clock: fastClock,
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
  // Who has not met his source yet, or is ready to run its guest, waits for another link: for ever, and rightly so.
  for (let turn = 0; !over && turn < PATIENCE; turn++) {
    if (incoming.state === 'none' || incoming.ownership === 'ready') incoming.cancel();
    await new Promise((resolve) => setImmediate(resolve));
  }
  const outcome = await mustSettle(ending, 'the incoming migration');
  memory.check();
  if (stateBytes > 2 ** 20) throw new Error(`${stateBytes} bytes of device state were loaded`);
  if (outcome === 'runs') {
    if (!goSent() || resumed !== 1 || abandoned !== 0) {
      throw new Error(`completed: go sent ${goSent()}, resumed ${resumed} times, abandoned ${abandoned} times`);
    }
    return;
  }
  if (!GodwitError.is(outcome)) throw new Error('it ended with something else than a GodwitError', { cause: outcome });
  if (outcome.code === 'GODWIT_INTERNAL') throw new Error('an error that nobody foresaw', { cause: outcome });
  if (resumed !== 0 || abandoned !== prepared) {
    throw new Error(`failed with ${outcome.code}: resumed ${resumed} times, abandoned ${abandoned} of ${prepared}`);
  }
}

/** The same stream; `letGo` hears when the destination has done with it. */
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
