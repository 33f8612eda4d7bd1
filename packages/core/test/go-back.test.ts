import { FaultyDevice, ToyVm } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import { BLOCKS, filledVm, start, type Toy } from './toy-migration.js';

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
