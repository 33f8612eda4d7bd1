import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { claimOf, GodwitError } from '@godwit/core';
import { type BufferMemory, engineParts, FaultyDevice, ToyVm } from '@godwit/core/testing';
import { afterEach, describe, expect, test } from '@jest/globals';
import { PAGE } from './toy-migration.js';

const { Claim } = engineParts;
type Direction = 'outgoing' | 'arriving';

const ID = 'a'.repeat(32);
const OTHER_ID = 'b'.repeat(32);

interface Named {
  readonly identity: string;
  readonly pages?: number;
  readonly shared?: true;
}

/** A VM with one block of this name, whose bytes are its own. */
function vmOf({ identity, pages = 2, shared }: Named): ToyVm {
  const vm = new ToyVm([{ id: 'ram', guestPhysicalAddress: 0, byteLength: pages * PAGE }]);
  for (const block of vm.memory.blocks) Object.assign(block, { identity, ...(shared && { shared }) });
  return vm;
}

/** A VM of one page that lies in `buffer`. */
function inBuffer(buffer: ArrayBuffer, at: number): ToyVm {
  const vm = new ToyVm([{ id: 'ram', guestPhysicalAddress: 0, byteLength: PAGE }]);
  const view = (offset: number, length: number) => new Uint8Array(buffer, at + offset, length);
  for (const block of vm.memory.blocks) Object.assign(block, { view });
  return vm;
}

const taken: ReturnType<typeof Claim.take>[] = [];
afterEach(() => {
  for (const claim of taken.splice(0)) {
    if (claim.state === 'handedOver') claim.takeBack();
    claim.end();
  }
});

function take(vm: ToyVm, direction: Direction = 'outgoing', id = ID): ReturnType<typeof Claim.take> {
  const claim = Claim.take(vm, direction, id);
  taken.push(claim);
  return claim;
}

/** The code with which a claim of another migration is refused; `undefined` where it is not. */
function refusal(vm: ToyVm, direction: Direction = 'outgoing', id = OTHER_ID): string | undefined {
  try {
    Claim.take(vm, direction, id).end();
    return undefined;
  } catch (error) {
    return GodwitError.is(error) ? error.code : String(error);
  }
}

/** Names are the process's: each test has a file of its own. */
let files = 0;
const file = () => `file:${++files}`;

describe('memory of one file', () => {
  const ranges = (name: string) =>
    [
      ['that begins within it', `${name}+${3 * PAGE}`, true],
      ['that ends within it', `${name}+${1 * PAGE}`, true],
      ['that is all of the file', name, true],
      ['right behind it', `${name}+${4 * PAGE}`, false],
      ['right before it', `${name}+0`, false],
      ['of another file', `${name}x+${2 * PAGE}`, false],
    ] as const;

  test.each(ranges('').map(([name], at) => [name, at] as const))('%s', (_, at) => {
    const name = file();
    const [, identity, same] = ranges(name)[at] as ReturnType<typeof ranges>[number];
    const claim = take(vmOf({ identity: `${name}+${2 * PAGE}` }));
    const other = vmOf({ identity });
    expect(refusal(other)).toBe(same ? 'GODWIT_CLAIMED' : undefined);
    claim.handOver();
    expect(refusal(other)).toBe(same ? 'GODWIT_HANDED_OVER' : undefined);
    expect(claimOf(other).state).toBe(same ? 'handedOver' : 'idle');
  });
});

describe('the bytes under a block', () => {
  test('of one page are the same part, if they are all of their buffer', () => {
    const buffer = new ArrayBuffer(PAGE);
    take(inBuffer(buffer, 0));
    expect(refusal(inBuffer(buffer, 0))).toBe('GODWIT_CLAIMED');
  });

  test.each([
    [2 ** 16, undefined],
    [2 ** 16 + PAGE, 'GODWIT_CLAIMED'],
  ])('in a buffer of %i bytes may be those of a pool (refused: %s)', (bytes, code) => {
    const buffer = new ArrayBuffer(bytes);
    take(inBuffer(buffer, 0));
    expect(refusal(inBuffer(buffer, PAGE))).toBe(code);
  });
});

describe('memory that both ends of one migration share', () => {
  const shared = (identity: string) => vmOf({ identity, shared: true });

  test.each<readonly [Direction, Direction]>([
    ['outgoing', 'arriving'],
    ['arriving', 'outgoing'],
  ])('is claimed by both (%s first), and has not left when the guest has', (first, second) => {
    const identity = `${file()}+0`;
    const vms = { outgoing: shared(identity), arriving: shared(identity) };
    const claims = [take(vms[first], first), take(vms[second], second)];
    const [source, destination] = first === 'outgoing' ? claims : claims.reverse();
    source?.handOver();
    destination?.end();
    expect([claimOf(vms.arriving).state, refusal(shared(identity))]).toEqual(['idle', undefined]);
    expect(claimOf(vms.outgoing).state).toBe('handedOver');
  });

  test('is no part of another migration', () => {
    const identity = `${file()}+0`;
    take(shared(identity));
    expect(refusal(shared(identity), 'arriving')).toBe('GODWIT_CLAIMED');
    expect(refusal(shared(identity), 'outgoing', ID)).toBe('GODWIT_CLAIMED');
  });

  test.each([true, false])('has to be declared so by both (the source does: %s)', (bySource) => {
    const identity = `${file()}+0`;
    take(bySource ? shared(identity) : vmOf({ identity }));
    expect(refusal(bySource ? vmOf({ identity }) : shared(identity), 'arriving', ID)).toBe('GODWIT_CLAIMED');
  });

  test.each<readonly [string, (identity: string) => Named, string]>([
    ['no claim besides it', (identity) => ({ identity, shared: true }), ''],
    ['another migration besides it', () => ({ identity: `${file()}+0` }), OTHER_ID],
    ['another one with shared memory of its own', () => ({ identity: `${file()}+0`, shared: true }), OTHER_ID],
    ['another end that shares nothing', () => ({ identity: `${file()}+0` }), ID],
  ])('is handed over with its VM where there is %s', (_, other, id) => {
    const identity = `${file()}+0`;
    const source = take(shared(identity));
    if (id !== '') take(vmOf(other(identity)), 'arriving', id);
    source.handOver();
    expect(refusal(shared(identity), 'outgoing', 'c'.repeat(32))).toBe('GODWIT_HANDED_OVER');
  });
});

test('a VM over memory that arrives is said to be part of that migration, and not of the one that has its device', () => {
  const devices = [new FaultyDevice('uart')];
  const blocks = [{ id: 'ram', guestPhysicalAddress: 0, byteLength: PAGE }];
  take(new ToyVm(blocks, { devices }), 'outgoing', OTHER_ID);
  const arriving = new ToyVm(blocks, { devices });
  take(arriving, 'arriving');
  const view = Object.assign(new ToyVm(blocks, { devices }), { memory: arriving.memory });
  expect(claimOf(view)).toMatchObject({ state: 'arriving', migrationId: ID });
});

test('memory that was handed over and collected leaves its name to other memory', async () => {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as () => void;
  const identity = `${file()}+0`;
  const make = (): WeakRef<BufferMemory> => {
    const vm = vmOf({ identity });
    Claim.take(vm, 'outgoing', ID).handOver();
    expect(claimOf(vmOf({ identity })).state).toBe('handedOver');
    return new WeakRef(vm.memory);
  };
  const memory = make();
  // A WeakRef keeps its target until the end of the job that made it.
  await new Promise(setImmediate);
  collect();
  expect(memory.deref()).toBeUndefined();
  expect([claimOf(vmOf({ identity })).state, refusal(vmOf({ identity }))]).toEqual(['idle', undefined]);
});
