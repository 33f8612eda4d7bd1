import { GodwitError } from '@godwit/core';
import { type ByteStream, frameStream, type Listener, memory, memoryPair, type Transport } from '@godwit/transport';
import { type Fault, type FaultPlan, faulty, faultyStream, transportSuite } from '@godwit/transport/testing';
import { describe, expect, jest, test } from '@jest/globals';

jest.setTimeout(30_000);

// With faults that never strike, the transport keeps every promise.
const made = new Map<Listener, Transport>();
const NEVER: FaultPlan = { faults: [{ kind: 'cut', direction: 'out', at: { byte: 2 ** 50 } }] };
transportSuite(
  'a faulty transport without a fault',
  { describe, test },
  {
    async listen() {
      const transport = faulty(memory(), NEVER);
      const listener = await transport.listen();
      made.set(listener, transport);
      return listener;
    },
    connect: async (listener, signal) => (made.get(listener) as Transport).connect(signal),
    tellsAbort: true,
    mostHeld: 2 ** 20,
    capabilities: { shortConnections: 100 },
  },
);

const over = new GodwitError('GODWIT_CANCELLED', 'the test is over');
const sent = Uint8Array.from({ length: 100 }, (_, i) => i);

/** A pair whose near end is faulty. */
function pair(plan: FaultPlan): [ByteStream, ByteStream] {
  const [near, far] = memoryPair();
  return [faultyStream(near, plan), far];
}

async function all(stream: ByteStream): Promise<number[]> {
  const bytes: number[] = [];
  const room = new Uint8Array(7);
  for (;;) {
    const count = await stream.read(room);
    if (count === 0) return bytes;
    bytes.push(...room.subarray(0, count));
  }
}

/** What arrives of `sent` when it crosses the faulty end in one direction, in two pieces. */
async function crossing(fault: Omit<Fault, 'direction'>, direction: 'in' | 'out', seed?: number): Promise<number[]> {
  const [near, far] = pair({ faults: [{ ...fault, direction } as Fault], ...(seed !== undefined && { seed }) });
  const [from, to] = direction === 'out' ? [near, far] : [far, near];
  const received = all(to);
  await from.write([sent.subarray(0, 40), sent.subarray(40, 41)]);
  await from.write([sent.subarray(41)]);
  await from.close();
  return received;
}

const before = Array.from(sent.subarray(0, 38));
const rest = (from: number): number[] => Array.from(sent.subarray(from));

for (const direction of ['out', 'in'] as const) {
  describe(`a fault on the way ${direction}`, () => {
    const at = { byte: 38 };
    test('truncate loses bytes, across writes', async () => {
      expect(await crossing({ kind: 'truncate', at, bytes: 5 } as Fault, direction)).toEqual([...before, ...rest(43)]);
    });

    test('duplicate brings them twice', async () => {
      const twice = [38, 39, 40, 41, 42];
      expect(await crossing({ kind: 'duplicate', at, bytes: 5 } as Fault, direction)).toEqual([
        ...before,
        ...twice,
        ...twice,
        ...rest(43),
      ]);
    });

    test('corrupt changes exactly these, the same for the same seed', async () => {
      const fault = { kind: 'corrupt', at, bytes: 5 } as Fault;
      const once = await crossing(fault, direction, 3);
      expect(once.flatMap((byte, i) => (byte === sent[i] ? [] : [i]))).toEqual([38, 39, 40, 41, 42]);
      expect(await crossing(fault, direction, 3)).toEqual(once);
      expect(await crossing(fault, direction, 4)).not.toEqual(once);
    });

    test('trickle and delay lose nothing', async () => {
      expect(await crossing({ kind: 'trickle', at } as Fault, direction)).toEqual(Array.from(sent));
      expect(await crossing({ kind: 'delay', at, milliseconds: 5 } as Fault, direction)).toEqual(Array.from(sent));
    });

    test('half-close ends the direction there', async () => {
      expect(await crossing({ kind: 'half-close', at } as Fault, direction)).toEqual(before);
    });

    test('a place that the seed chooses is the same for the same seed', async () => {
      const fault = { kind: 'truncate', at: { below: 90 } } as Fault;
      const missing = async (seed: number): Promise<number> => {
        const got = await crossing(fault, direction, seed);
        return sent.findIndex((byte) => !got.includes(byte));
      };
      const places = await Promise.all([1, 2, 3, 4, 5, 1, 2, 3, 4, 5].map(missing));
      expect(places.slice(0, 5)).toEqual(places.slice(5));
      expect(new Set(places).size).toBeGreaterThan(2);
    });
  });
}

test('cut loses the link on both sides, after the bytes before it, and is told', async () => {
  const struck: unknown[] = [];
  const fault: Fault = { kind: 'cut', direction: 'out', at: { byte: 38 } };
  const [near, far] = pair({ faults: [fault], onFault: (...what) => struck.push(what) });
  const reading = expect(near.read(new Uint8Array(1))).rejects.toMatchObject({ code: 'GODWIT_LINK_LOST' });
  await expect(near.write([sent])).rejects.toMatchObject({
    code: 'GODWIT_LINK_LOST',
    message: expect.stringContaining('planned fault'),
  });
  await reading;
  await expect(all(far)).rejects.toMatchObject({ code: 'GODWIT_LINK_LOST' });
  await expect(near.write([sent])).rejects.toMatchObject({ code: 'GODWIT_LINK_LOST' });
  expect(struck).toEqual([[fault, 0, 38]]);
});

test('stall lets the bytes before it through and no other, until the stream is dropped', async () => {
  const [near, far] = pair({ faults: [{ kind: 'stall', direction: 'out', at: { byte: 38 } }] });
  const writing = near.write([sent]);
  const closing = near.close();
  const room = new Uint8Array(100);
  expect(await far.read(room)).toBe(38);
  const reading = far.read(room);
  near.abort(over);
  await expect(writing).rejects.toBe(over);
  await closing;
  await expect(reading).rejects.toMatchObject({ code: 'GODWIT_LINK_LOST' });
});

test('delay passes on the clock of the plan', async () => {
  const waited: number[] = [];
  const sleep = async (milliseconds: number): Promise<void> => void waited.push(milliseconds);
  const [near, far] = pair({
    faults: [{ kind: 'delay', direction: 'out', at: { byte: 1 }, milliseconds: 3_600_000 }],
    sleep,
  });
  await near.write([sent]);
  await near.close();
  expect(await all(far)).toEqual(Array.from(sent));
  expect(waited).toEqual([3_600_000]);
});

test('a fault at a frame finds its start among payloads, and inside it by offset', async () => {
  for (const [offset, frames] of [
    [0, 2],
    [7, 2],
    [undefined, 2],
  ] as const) {
    const [near, far] = pair({
      faults: [{ kind: 'cut', direction: 'out', at: { frame: 2, ...(offset !== undefined && { offset }) } }],
    });
    const source = frameStream(near);
    const destination = frameStream(far);
    const writing = (async () => {
      // A payload that looks like frames.
      await source.write({ type: 'pages', round: 1, block: 0, runs: [0, 1] }, [new Uint8Array(4096).fill(0xce)]);
      await source.write({ type: 'roundEnd', round: 1, pages: 1 });
      await source.write({ type: 'pages', round: 2, block: 0, runs: [0, 1] }, [new Uint8Array(4096).fill(0xc6)]);
    })();
    const failed = expect(writing).rejects.toMatchObject({ code: 'GODWIT_LINK_LOST' });
    let seen = 0;
    const reading = (async () => {
      for (;;) {
        const received = await destination.read();
        if (received === null) return;
        await destination.skipPayload();
        seen++;
      }
    })();
    await expect(reading).rejects.toMatchObject({ code: 'GODWIT_LINK_LOST' });
    await failed;
    expect(seen).toBe(frames);
  }
});

test('a fault strikes only the stream that it names', async () => {
  const transport = faulty(memory(), { faults: [{ kind: 'truncate', direction: 'out', at: { byte: 0 }, stream: 2 }] });
  const listener = await transport.listen();
  const lengths: number[] = [];
  for (let i = 0; i < 2; i++) {
    const accepting = listener.accept();
    const near = await transport.connect();
    const far = await accepting;
    await near.write([sent]);
    await near.close();
    lengths.push((await all(far)).length);
    far.abort(over);
  }
  await listener.close();
  expect(lengths.sort()).toEqual([100, 99].sort());
});
