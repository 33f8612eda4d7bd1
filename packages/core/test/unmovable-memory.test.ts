import { claimOf } from '@godwit/core';
import { BufferMemory, ToyVm } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import { BLOCKS, expectStayed, filledVm, PAGE, start } from './toy-migration.js';

describe('memory that the engine cannot move', () => {
  test.each<readonly [string, ConstructorParameters<typeof BufferMemory>]>([
    ['two blocks of one name', [[...BLOCKS, { id: 'ram', guestPhysicalAddress: 2 ** 32, byteLength: PAGE }]]],
    ['blocks that overlap', [[...BLOCKS, { id: 'b', guestPhysicalAddress: PAGE, byteLength: PAGE }]]],
    ['a page size that is no power of two', [[{ id: 'ram', guestPhysicalAddress: 0, byteLength: 3000 }], 3000]],
    ['an address below zero', [[{ id: 'ram', guestPhysicalAddress: -4096, byteLength: PAGE }]]],
  ])('%s', async (_, parameters) => {
    const source = Object.assign(filledVm(), { memory: new BufferMemory(...parameters) });
    const toy = start({ source });
    toy.migration.result.catch(() => toy.incoming.cancel());
    expectStayed(toy, await toy.settled(), 'GODWIT_INVALID_ARGUMENT');
  });

  test('at the destination: its VM is abandoned', async () => {
    const memory = new BufferMemory([...BLOCKS, { id: 'ram', guestPhysicalAddress: 2 ** 32, byteLength: PAGE }]);
    const destination = Object.assign(new ToyVm(BLOCKS, { running: false }), { memory });
    const toy = start({ destination });
    const ends = await toy.settled();
    expectStayed(toy, ends, 'GODWIT_INVALID_ARGUMENT');
    expect(ends.receivedCode).toBe('GODWIT_INVALID_ARGUMENT');
    expect(destination.abandoned).toMatchObject({ code: 'GODWIT_INVALID_ARGUMENT' });
    expect(claimOf(destination).state).toBe('idle');
  });

  test('populated runs that do not ascend: a page taken for a hole would be lost', async () => {
    const source = filledVm();
    const [block] = source.memory.blocks;
    const blocks = [
      {
        ...block,
        populated: () => [
          { firstPage: 32, pageCount: 32 },
          { firstPage: 0, pageCount: 32 },
        ],
      },
    ];
    Object.assign(source, { memory: Object.assign(Object.create(source.memory), { blocks }) });
    const toy = start({ source });
    expectStayed(toy, await toy.settled(), 'GODWIT_INVALID_ARGUMENT');
  });
});
