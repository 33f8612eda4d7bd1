import { FaultyDevice, ToyVm } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import { BLOCKS, expectMoved, filledVm, PAGE, start, type Toy } from './toy-migration.js';

describe('a guest that cannot be resumed when a switchover is given up ends the migration, and that is what it says', () => {
  test.each<readonly [string, (toy: Toy) => void]>([
    ['the link lost with the guest paused', (toy) => toy.link.cut()],
    ['the bound passed', () => {}],
  ])('%s', async (_, obstacle) => {
    const source = filledVm();
    source.devices = [new FaultyDevice('uart', Uint8Array.of(1), { hangSave: true, onSave: () => obstacle(toy) })];
    source.onResume = () => {
      toy.migration.cancel('enough');
      throw new Error('no virtual CPU');
    };
    const destination = new ToyVm(BLOCKS, { running: false, devices: [new FaultyDevice('uart')] });
    const toy: Toy = start({ source, destination });
    const ends = await toy.settled();
    expect([ends.code, ends.receivedCode]).toEqual(['GODWIT_VM_FAILED', 'GODWIT_VM_FAILED']);
    expect(ends.sent).toMatchObject({ reason: { message: expect.stringContaining('no virtual CPU') } });
    expect(toy.migration.state).toBe('failed');
    expect([source.running, source.resumes, destination.running]).toEqual([false, 1, false]);
    expect([toy.migration.ownership, toy.incoming.ownership]).toEqual(['kept', 'abandoned']);
  });
});

test('what the destination has of a round that was given up is not taken for what it is to get of the next one', async () => {
  const source = filledVm();
  const cuts: string[] = [];
  const cut = (name: string, delivered: boolean) => {
    cuts.push(name);
    toy.link.cut({ delivered });
    return undefined;
  };
  source.onPause = () => {
    if (cuts.length > 0) return;
    for (const page of [3, 9]) source.deviceWrite(0, page * PAGE, Uint8Array.of(1));
  };
  // The first thing that the guest does when it runs again.
  source.onResume = () => source.deviceWrite(0, 3 * PAGE, Uint8Array.of(2));
  const toy: Toy = start({
    source,
    migrate: { verify: true },
    link: {
      fromSource: (frame, payload) => {
        // Pages 3 and 9 are there, and their round is not ended.
        if (frame.type === 'roundEnd' && !source.running && cuts.length === 0) return cut('the first round', true);
        // The next one has the same number; page 3 is on its way again, and does not arrive.
        if (frame.type === 'pages' && source.running && cuts.length === 1) return cut('the next round', false);
        return { frame, payload };
      },
    },
  });
  expectMoved(toy, await toy.settled());
  expect(cuts).toEqual(['the first round', 'the next round']);
  expect([source.resumes, toy.destination.memory.blocks[0]?.bytes[3 * PAGE]]).toEqual([1, 2]);
});
