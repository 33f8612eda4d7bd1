import { afterEach, expect, test } from '@jest/globals';
import { RngDevice } from '../../dist/virtio/rng-device.js';
import { MadeDevice, pageOf } from './made-device.js';

const made: MadeDevice[] = [];
afterEach(() => Promise.all(made.splice(0).map((one) => one.close())));

test('fills buffers with random bytes, at most a page of a chain, and marks what it has written', async () => {
  const one = MadeDevice.running(new RngDevice((bytes) => bytes.fill(0x5a)));
  made.push(one);
  const queue = one.driver.queues[0];
  await one.tracker.start();
  const head = queue?.add([{ room: 10 }, { room: 10_000 }]) ?? 0;
  queue?.kick();
  const [used] = await one.used(1);
  expect(used?.written).toEqual(new Uint8Array(4096).fill(0x5a));
  const address = queue?.roomOf(head)[0]?.address ?? 0;
  const pages = [pageOf(queue?.usedRing ?? 0), pageOf(address), pageOf(address + 4096)];
  expect(await one.marked()).toEqual([...new Set(pages)]);
  await one.tracker.stop();
});

test("without another source the bytes are the host's: two chains differ", async () => {
  const one = MadeDevice.running(new RngDevice());
  made.push(one);
  one.driver.queues[0]?.add([{ room: 32 }]);
  one.driver.queues[0]?.add([{ room: 32 }]);
  one.driver.queues[0]?.kick();
  const [first, second] = await one.used(2);
  expect(first?.written).toHaveLength(32);
  expect(first?.written).not.toEqual(second?.written);
});
