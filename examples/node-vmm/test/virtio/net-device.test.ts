import { mkdtempSync, rmSync } from 'node:fs';
import { createConnection } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, expect, test } from '@jest/globals';
import { FrameCutter, type FrameLink, withLength } from '../../dist/virtio/frame-link.js';
import { announcement } from '../../dist/virtio/net-announcer.js';
import { NetDevice } from '../../dist/virtio/net-device.js';
import { SocketLink } from '../../dist/virtio/socket-link.js';
import { inChunks, savedState } from '../cold-migration.js';
import { MadeDevice } from './made-device.js';

const MAC = Uint8Array.of(0x52, 0x54, 0, 1, 2, 3);
const HEADER = 12;
const ROOM = HEADER + 1514;
let folder: string;
const made: MadeDevice[] = [];
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'virtio-net-'));
});
afterEach(() => Promise.all(made.splice(0).map((one) => one.close())));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const frameOf = (byteLength: number, seed: number) =>
  Uint8Array.from({ length: byteLength }, (_, i) => (i + seed) & 0xff);
const packetOf = (frame: Uint8Array) => [{ out: new Uint8Array(HEADER) }, { out: frame }];

/** A link whose other side is the test. */
class TestLink implements FrameLink {
  readonly sent: Uint8Array[] = [];
  arrives: (frame: Uint8Array) => void = () => {};
  isOpen = false;
  #sent: () => void = () => {};

  open(arrives: (frame: Uint8Array) => void): void {
    this.arrives = arrives;
    this.isOpen = true;
  }

  send(frame: Uint8Array): void {
    this.sent.push(frame);
    this.#sent();
  }

  /** Resolves when so many frames were sent. */
  async sends(count: number): Promise<void> {
    while (this.sent.length < count) {
      await new Promise<void>((resolve) => {
        this.#sent = resolve;
      });
    }
  }

  async close(): Promise<void> {
    this.isOpen = false;
  }
}

function running(link: FrameLink): MadeDevice {
  const one = MadeDevice.running(new NetDevice(MAC, link));
  made.push(one);
  return one;
}

test('has its address, and passes frames on both ways', async () => {
  const link = new TestLink();
  const one = running(link);
  expect(one.driver.config(0, 6)).toEqual(MAC);
  const [receive, transmit] = one.driver.queues;
  transmit?.add(packetOf(frameOf(1514, 1)));
  transmit?.kick();
  await one.used(1, 1);
  expect(link.sent).toEqual([frameOf(1514, 1)]);
  receive?.add([{ room: ROOM }]);
  receive?.add([{ room: HEADER }, { room: ROOM }]);
  receive?.kick();
  link.arrives(frameOf(60, 2));
  link.arrives(frameOf(1514, 3));
  const [first, second] = await one.used(2);
  expect(first?.written).toEqual(Uint8Array.of(...new Uint8Array(10), 1, 0, ...frameOf(60, 2)));
  expect(second?.written.subarray(HEADER)).toEqual(frameOf(1514, 3));
});

test('frames that are too long, or too many, are dropped', async () => {
  const link = new TestLink();
  const one = running(link);
  const [receive, transmit] = one.driver.queues;
  for (const frame of [frameOf(1515, 0), new Uint8Array(0)]) {
    transmit?.add(frame.byteLength === 0 ? [{ out: new Uint8Array(HEADER) }] : packetOf(frame));
  }
  transmit?.kick();
  await one.used(2, 1);
  expect(link.sent).toEqual([]);
  link.arrives(frameOf(1515, 0));
  for (let i = 0; i < 300; i++) link.arrives(Uint8Array.of(i & 0xff, i >> 8));
  let got = 0;
  for (; got < 256; got++) {
    receive?.add([{ room: ROOM }]);
    receive?.kick();
    expect((await one.used(1))[0]?.written.subarray(HEADER)).toEqual(Uint8Array.of(got & 0xff, got >> 8));
  }
  receive?.add([{ room: ROOM }]);
  receive?.kick();
  await new Promise(setImmediate);
  expect(receive?.takeUsed()).toEqual([]);
});

test('a buffer in which no frame fits breaks the device', async () => {
  const link = new TestLink();
  const one = running(link);
  one.driver.queues[0]?.add([{ room: ROOM - 1 }]);
  one.driver.queues[0]?.kick();
  const broken = one.changed();
  link.arrives(frameOf(60, 0));
  await broken;
  expect(one.broken.join()).toContain('1526 bytes or more');
});

test('the link is open while the machine runs, and a guest that has arrived is announced several times', async () => {
  const [here, there] = [new TestLink(), new TestLink()];
  const one = running(here);
  expect(here.isOpen).toBe(true);
  await one.transport.stop();
  expect(here.isOpen).toBe(false);
  const next = new MadeDevice(new NetDevice(MAC, there), one.memory);
  await next.state.load(inChunks(await savedState(one.state)), 1);
  expect(there.isOpen).toBe(false);
  next.transport.start();
  await there.sends(5);
  expect(there.sent).toEqual(new Array(5).fill(announcement(MAC)));
  expect([...announcement(MAC).subarray(0, 22)]).toEqual([
    ...[255, 255, 255, 255, 255, 255, ...MAC, 0x80, 0x35],
    ...[0, 1, 8, 0, 6, 4, 0, 3],
  ]);
  await next.transport.stop();
  one.transport.start();
  expect(here.sent).toEqual([]);
});

test('a stream is cut into frames wherever it is torn; a length that is too long ends it', () => {
  const frames = [frameOf(1, 1), frameOf(60, 2), frameOf(1514, 3)];
  const stream = Buffer.concat(frames.map(withLength));
  for (const size of [1, 3, 61, stream.byteLength]) {
    const cut: Uint8Array[] = [];
    const cutter = new FrameCutter(2000, (frame) => cut.push(frame));
    for (let at = 0; at < stream.byteLength; at += size) expect(cutter.take(stream.subarray(at, at + size))).toBe(true);
    expect(cut).toEqual(frames);
  }
  expect(new FrameCutter(2000, () => {}).take(Uint8Array.of(0, 0, 8, 0))).toBe(false);
});

test('two guests reach each other over a socket, without root; a peer that sends nonsense is let go', async () => {
  const path = join(folder, 'net.sock');
  const one = running(new SocketLink({ path, listen: true }));
  const other = running(new SocketLink({ path }));
  const [receive] = one.driver.queues;
  receive?.add([{ room: ROOM }]);
  receive?.kick();
  const transmit = other.driver.queues[1];
  transmit?.add(packetOf(frameOf(100, 7)));
  transmit?.kick();
  expect((await one.used(1))[0]?.written.subarray(HEADER)).toEqual(frameOf(100, 7));
  receive?.add([{ room: ROOM }]);
  const back = other.driver.queues[0];
  back?.add([{ room: ROOM }]);
  back?.kick();
  one.driver.queues[1]?.add(packetOf(frameOf(200, 8)));
  one.driver.queues[1]?.kick();
  expect((await other.used(1))[0]?.written.subarray(HEADER)).toEqual(frameOf(200, 8));

  const nonsense = createConnection(path);
  nonsense.on('error', () => {});
  nonsense.resume();
  nonsense.write(Uint8Array.of(255, 255, 255, 255));
  await new Promise((resolve) => nonsense.once('close', resolve));
  expect(one.broken).toEqual([]);
});
