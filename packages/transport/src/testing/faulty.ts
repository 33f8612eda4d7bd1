import { setTimeout as delay } from 'node:timers/promises';
import { checkOptions, GodwitError } from '@godwit/core';
import type { ByteStream, Listener, Transport } from '../stream/byte-stream.js';
import { FaultLine } from './fault-line.js';
import { type Fault, type FaultPlan, seeded } from './fault-plan.js';

/** The most bytes that are read ahead of this side's reader. */
const READ_BYTES = 64 * 1024;

/**
 * A transport whose streams have planned faults, for tests of what a VMM does when the link is cut in the seventh
 * frame, or stalls, or brings a page twice. As long as no fault strikes, it works as the transport below it, with one
 * more copy in each direction.
 *
 * ```ts
 * const transport = faulty(tcp({ port: 4444 }), { faults: [{ kind: 'cut', direction: 'out', at: { frame: 7 } }] });
 * ```
 *
 * `cut` fails both sides as a broken cable does: this side with `GODWIT_LINK_LOST`, the other with the error of its
 * carrier.
 */
export function faulty<L extends Listener>(transport: Transport<L>, plan: FaultPlan): Transport {
  checkOptions<FaultPlan>('faulty', plan, { faults: true, seed: true, sleep: true, onFault: true });
  let streams = 0;
  return {
    connect: async (signal) => faultyStream(await transport.connect(signal), plan, streams++),
    async listen(signal): Promise<Listener> {
      const listener = await transport.listen(signal);
      return {
        address: listener.address,
        accept: async (acceptSignal) => faultyStream(await listener.accept(acceptSignal), plan, streams++),
        close: () => listener.close(),
      };
    },
  };
}

/**
 * One stream with planned faults; `index` is its number for `Fault.stream`.
 *
 * @example
 * const stream = faultyStream(near, { faults: [{ kind: 'cut', direction: 'out', at: { frame: 7 } }] });
 */
export function faultyStream(stream: ByteStream, plan: FaultPlan, index = 0): ByteStream {
  const random = seeded((plan.seed ?? 1) + index * 7919);
  const arrived: Uint8Array[] = [];
  let inputEnded = false;
  let reading = false;
  let closing: Promise<void> | undefined;
  let outputEnded = false;
  let dropped: GodwitError | undefined;
  let drop: (reason: GodwitError) => void = () => undefined;
  const whenDropped = new Promise<never>((_, reject) => {
    drop = (reason) => {
      dropped ??= reason;
      reject(dropped);
    };
  });
  whenDropped.catch(() => undefined);
  let lastWrite: Promise<void> = Promise.resolve();

  function line(
    direction: Fault['direction'],
    emit: (bytes: Uint8Array) => Promise<void>,
    end: () => Promise<void>,
  ): FaultLine {
    const own = plan.faults.filter((fault) => fault.direction === direction && (fault.stream ?? index) === index);
    return new FaultLine(own, random, {
      emit,
      end,
      cut: async (fault) => {
        const lost = new GodwitError(
          'GODWIT_LINK_LOST',
          `the link to ${stream.peer} was cut by a planned fault: ${JSON.stringify(fault)}`,
        );
        drop(lost);
        stream.abort(lost);
        throw lost;
      },
      stall: () => whenDropped,
      sleep: (milliseconds) => Promise.race([(plan.sleep ?? pause)(milliseconds), whenDropped]),
      struck: (fault, byte) => plan.onFault?.(fault, index, byte),
    });
  }

  const output = line(
    'out',
    (bytes) => stream.write([bytes]),
    async () => {
      outputEnded = true;
      await stream.close();
    },
  );
  const input = line(
    'in',
    async (bytes) => void arrived.push(bytes),
    async () => {
      inputEnded = true;
    },
  );

  async function readInto(into: Uint8Array): Promise<number> {
    while (arrived.length === 0 && !inputEnded) {
      const room = new Uint8Array(READ_BYTES);
      const count = await stream.read(room);
      if (count === 0) inputEnded = true;
      else await input.feed(room.subarray(0, count));
      if (dropped !== undefined) throw dropped;
    }
    const first = arrived[0];
    if (first === undefined) return 0;
    const count = Math.min(first.length, into.length);
    into.set(first.subarray(0, count));
    if (count === first.length) arrived.shift();
    else arrived[0] = first.subarray(count);
    return count;
  }

  return {
    peer: stream.peer,
    write(chunks) {
      if (dropped !== undefined) return Promise.reject(dropped);
      if (closing !== undefined) {
        return Promise.reject(
          new GodwitError('GODWIT_INVALID_STATE', `the stream to ${stream.peer} is closed for writing`),
        );
      }
      const written = lastWrite.then(async () => {
        for (const chunk of chunks) {
          if (dropped !== undefined) throw dropped;
          if (!outputEnded) await output.feed(chunk);
        }
      });
      lastWrite = written.catch(() => undefined);
      return Promise.race([written, whenDropped]);
    },
    async read(into) {
      if (reading) throw new GodwitError('GODWIT_INVALID_STATE', 'a read is pending already; one at a time');
      if (into.length === 0) throw new GodwitError('GODWIT_INVALID_ARGUMENT', 'cannot read into an empty buffer');
      if (dropped !== undefined) throw dropped;
      reading = true;
      try {
        return await Promise.race([readInto(into), whenDropped]);
      } finally {
        reading = false;
      }
    },
    close() {
      // A direction that stalls never ends either, until the stream is dropped.
      closing ??= Promise.race([lastWrite.then(() => stream.close()), whenDropped.catch(() => undefined)]);
      return closing;
    },
    abort(reason) {
      if (dropped !== undefined) {
        stream.abort(dropped);
        return;
      }
      arrived.length = 0;
      drop(reason);
      stream.abort(reason);
    },
  };
}

async function pause(milliseconds: number): Promise<void> {
  await delay(milliseconds, undefined, { ref: false });
}
