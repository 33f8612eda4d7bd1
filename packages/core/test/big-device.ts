import type { MigratableDevice } from '@godwit/core';
import { ToyVm, type VirtualClock } from '@godwit/core/testing';
import { BLOCKS, filledVm, start, type ToyOptions } from './toy-migration.js';

/** Devices of many megabytes, in a migration that notices how much the destination holds. */

export const MB = 1e6;

interface Big {
  readonly id?: string;
  readonly megabytes: number;
  /** How much of it is yielded while the guest runs. */
  readonly live?: number;
  /** Milliseconds that saving, and loading, a megabyte takes. */
  readonly saveMs?: number;
  readonly loadMs?: number;
  readonly more?: Partial<MigratableDevice>;
}

/** Chunk `n` of a device: bytes that differ between chunks and inside of one. */
export function chunkOf(n: number): Uint8Array {
  const chunk = new Uint8Array(MB).fill(n % 251);
  new DataView(chunk.buffer).setUint32(0, n);
  return chunk;
}

/** What every device saves at last. */
const TAIL = new Uint8Array(4);

/** Two ends of a device of many megabytes; the destination notices a chunk that is lost, torn, twice or out of place. */
export function big(clock: VirtualClock, { id = 'gpu', megabytes, live = 0, saveMs = 0, loadMs = 0, more = {} }: Big) {
  const seen = { bytes: 0, wrong: 0, resets: 0, loads: 0, firstAt: -1 };
  let yielded = 0;
  const source: MigratableDevice = {
    id,
    version: 1,
    ...(live > 0
      ? {
          async *precopy() {
            while (yielded < live) yield chunkOf(yielded++);
          },
          restart: async () => {
            yielded = 0;
          },
        }
      : {}),
    async *save() {
      const reused = new Uint8Array(MB);
      for (let n = live; n < megabytes; n++) {
        if (saveMs > 0) await clock.sleep(saveMs);
        reused.set(chunkOf(n));
        yield reused;
        // It was borrowed until now.
        reused.fill(0xee);
      }
      yield TAIL;
    },
    load: async () => {},
    ...more,
  };
  const destination: MigratableDevice = {
    id,
    version: 1,
    async *save() {},
    reset: async () => {
      seen.resets++;
    },
    loadWrites: () => [],
    async load(state) {
      seen.loads++;
      seen.bytes = 0;
      for await (const part of state) {
        if (seen.firstAt < 0) seen.firstAt = clock.now();
        for (let at = 0; at < part.byteLength; at += 4093) {
          const place = (seen.bytes + at) % MB;
          if (place > 3 && part[at] !== Math.floor((seen.bytes + at) / MB) % 251) seen.wrong++;
        }
        seen.bytes += part.byteLength;
        if (loadMs > 0) await clock.sleep((part.byteLength / MB) * loadMs);
      }
    },
    ...more,
  };
  return { source, destination, seen };
}

type Ends = ReturnType<typeof big>;

/** The most bytes that the destination held: frames that have come, less those that its devices have loaded. */
export function begin(
  clock: VirtualClock,
  devices: readonly Ends[],
  options: Omit<ToyOptions, 'source' | 'destination'>,
) {
  const source = filledVm();
  source.devices = devices.map((device) => device.source);
  const held = { now: 0, most: 0 };
  const loading = (device: MigratableDevice): MigratableDevice => ({
    ...device,
    load: (state, version) =>
      device.load(
        (async function* () {
          for await (const part of state) {
            yield part;
            held.now -= part.byteLength;
          }
        })(),
        version,
      ),
  });
  const destination = new ToyVm(BLOCKS, {
    running: false,
    devices: devices.map((device) => loading(device.destination)),
  });
  const tap = options.link?.fromSource;
  const toy = start({
    ...options,
    clock,
    source,
    destination,
    link: {
      ...options.link,
      fromSource: (frame, payload, channel) => {
        if (frame.type === 'device') {
          held.now += payload?.byteLength ?? 0;
          held.most = Math.max(held.most, held.now);
        }
        return tap === undefined ? { frame, payload } : tap(frame, payload, channel);
      },
    },
  });
  return { toy, held };
}
