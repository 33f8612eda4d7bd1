import { type Clock, roundCap } from '@godwit/core';
import { ToyVm, VirtualClock } from '@godwit/core/testing';
import { expect, test } from '@jest/globals';
import { expectMoved, PAGE, start, type Toy } from './toy-migration.js';

const PAGES = 8192;
const BIG = [{ id: 'ram', guestPhysicalAddress: 0, byteLength: PAGES * PAGE }];

test('a reader of a lost connection that is still at work has ended before the source goes on', async () => {
  const clock = new VirtualClock();
  // Whatever takes long at the destination takes very long: zeroing much memory does, and nothing interrupts it.
  const slow: Clock = {
    now: () => clock.now(),
    sleep: (ms, signal) => clock.sleep(ms, signal),
    yield: () => clock.sleep(200),
  };
  const source = new ToyVm(BIG);
  source.write(0, 0, new Uint8Array(PAGES * PAGE).fill(1));
  const destination = new ToyVm(BIG, { running: false });
  const [block] = destination.memory.blocks;
  if (block === undefined) throw new Error('unreachable');
  // No holes can be made there, so zero pages are written.
  const { discard: _, ...plain } = block;
  Object.assign(destination, { memory: Object.assign(Object.create(destination.memory), { blocks: [plain] }) });
  let cut = false;
  const toy: Toy = start({
    source,
    destination,
    migrate: {
      clock,
      verify: true,
      policy: roundCap(3, 'switchover'),
    },
    receive: { clock: slow },
    link: {
      clock,
      fromSource: (frame, payload) => {
        if (frame.type === 'roundEnd' && frame.round === 1) source.discard(0, { firstPage: 0, pageCount: PAGES });
        if (frame.type === 'roundEnd' && frame.round === 2 && !cut) {
          cut = true;
          // The destination has read the frame before, and is at work on it.
          void clock.sleep(1).then(() => {
            toy.link.cut();
            source.write(0, 0, new Uint8Array(PAGES * PAGE).fill(7));
          });
        }
        return { frame, payload };
      },
    },
  });
  expectMoved(toy, await toy.settled());
  expect(cut).toBe(true);
  await clock.sleep(10_000);
  expect(block.bytes.every((byte) => byte === 7)).toBe(true);
}, 60_000);

test.each<readonly [string, readonly number[], string]>([
  ['pages that were not sent in this round', [40, 1], 'GODWIT_PROTOCOL'],
  // Bytes that may have been garbled on their way: it is asked again, until the time is up.
  ['pages past the end', [64, 1], 'GODWIT_LINK_LOST'],
  ['no runs at all', [], 'GODWIT_LINK_LOST'],
])('a destination that claims to have received %s is not believed', async (_, runs, code) => {
  const source = new ToyVm([{ id: 'ram', guestPhysicalAddress: 0, byteLength: 64 * PAGE }]);
  for (let page = 0; page < 64; page++) source.write(0, page * PAGE, Uint8Array.of(page + 1));
  let cut = false;
  const toy: Toy = start({
    source,
    destination: new ToyVm([{ id: 'ram', guestPhysicalAddress: 0, byteLength: 64 * PAGE }], { running: false }),
    migrate: { policy: roundCap(4, 'switchover') },
    link: {
      fromSource: (frame, payload) => {
        if (frame.type === 'roundEnd' && frame.round === 1) {
          for (const page of [3, 9]) source.write(0, page * PAGE, Uint8Array.of(99));
        }
        if (frame.type === 'roundEnd' && frame.round === 2 && !cut) {
          cut = true;
          // What came before it has arrived by then.
          void toy.clock.sleep(1).then(() => toy.link.cut());
          return undefined;
        }
        return { frame, payload };
      },
      fromDestination: (frame, payload) =>
        frame.type === 'received'
          ? { frame: { type: 'received', block: frame.block, runs }, payload }
          : { frame, payload },
    },
  });
  const ends = await toy.settled();
  expect(ends.code).toBe(code);
  expect(ends.receivedCode).toBe(code);
  const message = expect.stringMatching(/not sent in it|names pages 64 to 64|come in pairs/);
  expect(ends.sent).toMatchObject({ reason: { message } });
  expect([source.running, toy.destination.running]).toEqual([true, false]);
});
