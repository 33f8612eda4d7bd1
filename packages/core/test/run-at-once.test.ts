import { claimOf, DirtyBitmaps, type ReceiveOptions } from '@godwit/core';
import { ToyFaultService, type ToyMissing } from '@godwit/core/testing';
import { afterEach, describe, expect, test } from '@jest/globals';
import { DEVICES, end, GO, PlayedSource, pages, SWITCHOVER, through } from './played-source.js';
import { held } from './played-stream.js';
import { PAGE } from './toy-migration.js';

let played: PlayedSource;
afterEach(async () => {
  played.incoming.cancel();
  played.incoming.giveUpPages();
  await played.clock.sleep(60_000);
  await played.control.close().catch(() => {});
});

/** Lets everything that can run do so. */
const turn = () => played.clock.sleep(1);

interface Snapshot {
  /** The pages that come while the guest runs. */
  readonly coming?: readonly number[];
  readonly options?: Partial<ReceiveOptions>;
  readonly faults?: ToyFaultService;
}

/** Plays a snapshot whose guest runs at once. */
async function restore({ coming = [1, 40], options = {}, faults = new ToyFaultService() }: Snapshot = {}) {
  const comingPages = async () => {
    const contents = new DirtyBitmaps(played.vm.memory);
    for (const page of coming) contents.at(0).set(page);
    return { contents: contents.blocks, source: { module: undefined, make: 'none', options: undefined } };
  };
  played = new PlayedSource(
    100_000,
    { run: 'at once', faults, progressIntervalMs: 0, ...options },
    through(() => ({ comingPages })),
  );
  await played.hello();
  return faults;
}

/** The same up to the end of the loading. */
async function ready(snapshot: Snapshot = {}): Promise<ToyMissing> {
  const faults = await restore(snapshot);
  await played.hear('welcome');
  await played.send(end(0), ...DEVICES, SWITCHOVER);
  await played.hear('ready');
  return faults.served[0] as ToyMissing;
}

/** The same up to the guest that runs and whose pages have not come. */
async function running(snapshot: Snapshot = {}): Promise<ToyMissing> {
  const served = await ready(snapshot);
  await played.send(GO);
  while (played.incoming.state !== 'postcopy-active') await turn();
  return served;
}

/** Brings these pages. */
function bring(served: ToyMissing, ...pagesThatCome: readonly number[]): void {
  const sink = served.sink();
  for (const page of pagesThatCome) sink.put(0, page, 1, 0);
  served.arrived();
}

describe('a guest that runs before its pages are there', () => {
  test('runs on its own: the source is told once all of them have come, and they count as compared', async () => {
    const served = await ready();
    const asked: boolean[] = [];
    served.loadRest = () => void asked.push(played.vm.running);
    await played.send(GO);
    await turn();
    // The rest is loaded once the guest runs.
    expect([asked, played.incoming.state, played.heardOf('running')]).toEqual([[true], 'postcopy-active', []]);
    bring(served, 1);
    await turn();
    expect(played.heardOf('running')).toEqual([]);
    bring(served, 40);
    await played.hear('running');
    // Nothing is left to give up.
    expect(played.incoming.giveUpPages()).toBe(false);
    await played.send({ type: 'released' });
    const { summary } = await played.incoming.result;
    expect(summary).toMatchObject({ verified: true, faults: { pagesMissing: 0, pagesTotal: 2 } });
    expect([played.heardOf('running').length, played.incoming.ownership]).toEqual([1, 'settled']);
  });

  test.each([
    [0, [0]],
    [1, [...new Array(24).fill(2), 0]],
    [10, [2, 2, 0]],
  ])('tells what is missing every %d ms until nothing is', async (progressIntervalMs, missing) => {
    const served = await ready({ options: { progressIntervalMs } });
    let began = -1;
    played.incoming.subscribe(({ type }) => {
      if (type === 'running') began = played.clock.now();
    });
    await played.send(GO);
    while (began < 0) await turn();
    await played.clock.sleep(began + 24.5 - played.clock.now());
    bring(served, 1, 40);
    await played.hear('running');
    const told = played.eventsOf('faults').map(({ faults }) => faults.pagesMissing);
    expect(told).toEqual(missing);
    await played.clock.sleep(100);
    expect(played.eventsOf('faults')).toHaveLength(missing.length);
    await played.send({ type: 'released' });
    await played.incoming.result;
    await turn();
    expect(played.clock.sleepers).toBe(0);
  });

  test('takes none of them from a stream: the link is not used any more', async () => {
    const served = await running();
    await played.send(pages([1, 1], PAGE, { round: 2 }));
    await turn();
    bring(served, 1, 40);
    while (played.lost.length === 0) await turn();
    expect(played.lost).toMatchObject([
      { code: 'GODWIT_PROTOCOL', message: 'the source sent "pages" on the control stream' },
    ]);
    await played.again({ stage: 'handedOver' });
    await played.hear('resumed');
    await played.send({ type: 'released' });
    await played.incoming.result;
  });
});

describe('while the memory is being prepared', () => {
  function slowly() {
    const [faults, serving] = [new ToyFaultService(), held()];
    faults.onServe = () => serving.promise;
    return { faults, serving };
  }

  test('the VM is claimed for it, and the source is not welcome yet', async () => {
    const { faults, serving } = slowly();
    await restore({ faults });
    await turn();
    expect([played.heard, claimOf(played.vm).waitingFor]).toEqual([[], ['serving the missing pages of the VM']]);
    serving.release();
    await played.hear('welcome');
    expect(faults.served[0]?.status()).toMatchObject({ pagesMissing: 2 });
  });

  test('a caller who cancels is heard; the VM is abandoned after the service has begun and ended', async () => {
    const { faults, serving } = slowly();
    await restore({ faults });
    await turn();
    const seen: unknown[] = [];
    played.vm.abandon = async () => void seen.push(faults.served[0]?.ended);
    played.incoming.cancel('enough');
    await turn();
    expect([played.heardOf('error'), seen]).toMatchObject([[{ code: 'GODWIT_CANCELLED' }], []]);
    serving.release();
    expect(await played.refused()).toBe('GODWIT_CANCELLED');
    expect(seen).toEqual(['ended']);
    await claimOf(played.vm).free;
  });

  test('it may fail: the source is told why, and the VM is abandoned', async () => {
    const faults = new ToyFaultService();
    faults.onServe = () => Promise.reject(new Error('no userfaultfd'));
    await restore({ faults });
    expect(await played.refused()).toBe('GODWIT_INTERNAL');
    expect(played.heardOf('error')).toMatchObject([{ message: expect.stringContaining('no userfaultfd') }]);
    expect(played.vm.abandoned).toMatchObject({ code: 'GODWIT_INTERNAL' });
    await claimOf(played.vm).free;
  });
});

describe('pages that cannot be had', () => {
  test('end it: the guest is paused before the service ends, and nobody runs it here again', async () => {
    const served = await running();
    const pausing = held();
    played.vm.onPause = () => pausing.promise;
    played.incoming.giveUpPages('the disk is gone');
    await turn();
    expect([played.incoming.state, played.incoming.ownership, served.ended]).toEqual([
      ...['postcopy-active', 'stranded', 'no'],
    ]);
    pausing.release();
    await expect(played.incoming.result).rejects.toMatchObject({
      code: 'GODWIT_PAGES_MISSING',
      message: '2 pages of the guest never came: the disk is gone',
    });
    expect([played.vm.running, served.ended]).toEqual([false, 'ended']);
    const told = played.events.filter(({ type }) => type === 'faults' || type === 'failed');
    expect(told).toMatchObject([{ type: 'faults', faults: { pagesMissing: 2 } }, { type: 'failed' }]);
    expect([played.eventsOf('warning'), played.clock.sleepers]).toEqual([[], 0]);
  });

  test('are waited for no longer than a pause may take: 1 s with vCPUs that wait for pages, and 10 s without', async () => {
    const served = await running();
    const { clock } = played;
    const ends: number[] = [];
    const began = clock.now();
    served.end = async () => {
      ends.push(clock.now() - began);
      await clock.sleep(50);
    };
    played.vm.onPause = () => new Promise(() => {});
    played.incoming.giveUpPages();
    await expect(played.incoming.result).rejects.toMatchObject({ code: 'GODWIT_PAGES_MISSING' });
    // The end of the migration ends the service once more.
    expect(ends).toEqual([1000, 11_050]);
  });

  test('leave the VM claimed while its pause has not returned: vCPUs may still run in its memory', async () => {
    await running();
    const pausing = held();
    played.vm.onPause = () => pausing.promise;
    played.incoming.giveUpPages();
    await expect(played.incoming.result).rejects.toMatchObject({ code: 'GODWIT_PAGES_MISSING' });
    expect(played.eventsOf('warning')).toMatchObject([
      {
        code: 'GODWIT_VM_FAILED',
        message: 'pause() has not returned: vCPUs of the guest whose pages are missing may still run',
      },
    ]);
    expect(claimOf(played.vm).waitingFor).toEqual(['pause() of the VM']);
    pausing.release();
    await claimOf(played.vm).free;
  });

  test('are told as such, though the guest cannot be paused', async () => {
    await running();
    played.vm.onPause = () => {
      throw new Error('a vCPU does not answer');
    };
    played.incoming.giveUpPages();
    await expect(played.incoming.result).rejects.toMatchObject({ code: 'GODWIT_PAGES_MISSING' });
    expect(played.eventsOf('warning')).toMatchObject([
      {
        code: 'GODWIT_VM_FAILED',
        message: 'the guest whose pages are missing could not be paused: a vCPU does not answer',
      },
    ]);
  });

  test('for whatever reason', async () => {
    const failing = held();
    const served = await ready();
    Object.assign(served, { whole: failing.promise.then(() => Promise.reject(new Error('EIO'))) });
    await played.send(GO);
    while (played.incoming.state !== 'postcopy-active') await turn();
    failing.release();
    await expect(played.incoming.result).rejects.toMatchObject({
      code: 'GODWIT_PAGES_MISSING',
      message: 'the pages of the guest cannot be had: EIO',
    });
    expect(played.vm.running).toBe(false);
  });
});

describe('"recover"', () => {
  test('is refused while a single page has not come', async () => {
    await ready({ coming: [7] });
    await expect(played.incoming.recover({ sourceIsDead: true })).rejects.toMatchObject({
      code: 'GODWIT_PAGES_MISSING',
      message: expect.stringMatching(
        /^1 pages of the guest are still in its snapshot.*cancel\(\) and restore the snapshot again/,
      ),
    });
    expect([played.incoming.ownership, played.vm.resumes]).toEqual(['ready', 0]);
  });

  test('runs a guest that has them; if they turn out to be wrong, the guest is paused, and is still recovered', async () => {
    const [checked, served] = [held(), await ready({ coming: [] })];
    Object.assign(served, { whole: checked.promise.then(() => Promise.reject(new Error('a digest is wrong'))) });
    await played.incoming.recover({ sourceIsDead: true });
    while (played.incoming.state !== 'postcopy-active') await turn();
    expect(played.vm.running).toBe(true);
    checked.release();
    await expect(played.incoming.result).rejects.toMatchObject({ code: 'GODWIT_PAGES_MISSING' });
    expect([played.vm.running, played.incoming.ownership]).toEqual([false, 'recovered']);
  });
});
