import { MessageChannel, type MessagePort, Worker } from 'node:worker_threads';
import { GodwitError } from '@godwit/core';
import { messagePort } from '@godwit/transport';
import { transportSuite } from '@godwit/transport/testing';
import { afterAll, describe, expect, jest, test } from '@jest/globals';

jest.setTimeout(30_000);

const ports: MessagePort[] = [];
afterAll(() => {
  for (const port of ports) port.close();
});

function channel(): [MessagePort, MessagePort] {
  const { port1, port2 } = new MessageChannel();
  ports.push(port1);
  return [port1, port2];
}

const [near, far] = channel();
transportSuite(
  'messagePort',
  { describe, test },
  {
    listen: () => messagePort(far).listen(),
    connect: (_listener, signal) => messagePort(near).connect(signal),
    tellsAbort: true,
    mostHeld: 2 ** 20,
  },
);

const over = new GodwitError('GODWIT_CANCELLED', 'the test is over');

/** A thread that sends back what it reads, stream by stream. */
const ECHO = `
  import { messagePort } from '@godwit/transport';
  import { workerData } from 'node:worker_threads';
  const listener = await messagePort(workerData).listen();
  for (;;) {
    const stream = await listener.accept();
    (async () => {
      const room = new Uint8Array(100_000);
      for (;;) {
        const count = await stream.read(room);
        if (count === 0) break;
        if (room[0] === 66) process.exit(7);
        await stream.write([room.subarray(0, count)]);
      }
      await stream.close();
    })();
  }`;

describe('messagePort, to a worker,', () => {
  const source = new URL(
    `data:text/javascript,${encodeURIComponent(ECHO.replace('@godwit/transport', import.meta.resolve('@godwit/transport')))}`,
  );

  test('copies what it is given, shared memory too, and brings it back', async () => {
    const [own, theirs] = channel();
    const worker = new Worker(source, { workerData: theirs, transferList: [theirs] });
    const stream = await messagePort(own).connect();
    const shared = new Uint8Array(new SharedArrayBuffer(3_000_000)).fill(1);
    const received = (async () => {
      const room = new Uint8Array(shared.length);
      for (let at = 0; at < room.length; ) at += await stream.read(room.subarray(at), room.length - at);
      return room;
    })();
    await stream.write([shared.subarray(0, 1_000_000), shared.subarray(1_000_000)]);
    shared.fill(2);
    expect((await received).every((byte) => byte === 1)).toBe(true);
    await stream.close();
    expect(await stream.read(new Uint8Array(1))).toBe(0);
    await worker.terminate();
  });

  test('notices the end of the thread', async () => {
    const [own, theirs] = channel();
    const worker = new Worker(source, { workerData: theirs, transferList: [theirs] });
    const stream = await messagePort(own).connect();
    const exited = new Promise((resolve) => {
      worker.once('exit', resolve);
    });
    await stream.write([new Uint8Array([66])]);
    await expect(stream.read(new Uint8Array(1))).rejects.toMatchObject({ code: 'GODWIT_LINK_LOST' });
    expect(await exited).toBe(7);
  });
});

test('messagePort says so when nobody listens, when somebody does already, and when the port is closed', async () => {
  const [lonely] = channel();
  await expect(messagePort(lonely, { connectTimeoutMs: 50 }).connect()).rejects.toMatchObject({
    code: 'GODWIT_CONNECT_FAILED',
    message: expect.stringContaining('connectTimeoutMs = 50'),
  });
  const [own, theirs] = channel();
  const listener = await messagePort(theirs).listen();
  await expect(messagePort(theirs).listen()).rejects.toMatchObject({ code: 'GODWIT_CONNECT_FAILED' });
  const accepting = listener.accept();
  const connecting = messagePort(own).connect();
  (await accepting).abort(over);
  (await connecting).abort(over);
  const left = listener.accept();
  own.close();
  await expect(left).rejects.toMatchObject({ code: 'GODWIT_INVALID_STATE' });
  await listener.close();
  expect(() => messagePort(own, { windowBytes: 10 })).toThrow(/windowBytes/);
});
