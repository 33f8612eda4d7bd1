import type { Frame } from '@godwit/core';
import { engineParts, VirtualClock } from '@godwit/core/testing';
import { expect, test } from '@jest/globals';
import { held, PlayedStream } from './played-stream.js';

const { LoadedReports, tellLoaded } = engineParts;

/** A destination, as far as reports know it. */
function made(devices = 3) {
  const clock = new VirtualClock();
  const stream = new PlayedStream();
  const over = new AbortController();
  const loaded = new Array<number>(devices).fill(0);
  /** The stop-and-copy whose pieces a device loads as they come; 0 while the guest runs. */
  const attempts = new Array<number>(devices).fill(0);
  const loader = {
    ...{ loaded, attempts },
    progress: (device: number) => ({ attempt: attempts[device], sequence: loader.loaded[device] }),
  };
  const serving = { protocolPhase: 'receiving' };
  const current = { signal: over.signal, write: (frame: Frame) => stream.write(frame) };
  const context = { session: { current: current as typeof current | undefined }, serving, arriving: { loader } };
  const reports = new LoadedReports(context as unknown as engineParts.DestinationContext);
  const said = () => stream.of('loaded').map(({ device, sequence }) => [device, sequence]);
  return { clock, stream, over, loader, serving, current, context, reports, said };
}

test('a report says up to which piece the device has loaded', async () => {
  const { clock, loader, reports, said } = made();
  loader.loaded[1] = 4;
  reports.report(1);
  await clock.yield();
  expect(said()).toEqual([[1, 4]]);
});

test('a report of pieces of a stop-and-copy names its attempt', async () => {
  const { clock, stream, loader, reports } = made();
  loader.loaded.splice(0, 2, 7, 8);
  loader.attempts[1] = 3;
  reports.report(0);
  reports.report(1);
  await clock.yield();
  expect(stream.of('loaded')).toEqual([
    { type: 'loaded', device: 0, sequence: 7 },
    { type: 'loaded', device: 1, sequence: 8, attempt: 3 },
  ]);
});

test('one is written at a time; those that come meanwhile become one for each device, of what is true then', async () => {
  const { clock, stream, loader, reports, said } = made();
  const carrier = held();
  stream.taken = carrier.promise;
  for (let piece = 1; piece <= 50; piece++) {
    for (const device of [0, 2]) {
      loader.loaded[device] = piece;
      reports.report(device);
    }
  }
  await clock.yield();
  expect(said()).toEqual([[0, 1]]);
  carrier.release();
  await clock.yield();
  expect(said().slice(0, 1)).toEqual([[0, 1]]);
  expect(said().slice(1).sort()).toEqual([
    [0, 50],
    [2, 50],
  ]);
  // None is left over, and the next one is written again.
  loader.loaded[1] = 1;
  reports.report(1);
  await clock.yield();
  expect(said().at(-1)).toEqual([1, 1]);
});

test('a device that has loaded nothing, since it was reset, is not reported', async () => {
  const { clock, loader, reports, said } = made();
  loader.loaded[0] = 0;
  reports.report(0);
  await clock.yield();
  expect(said()).toEqual([]);
});

test.each<readonly [string, (parts: ReturnType<typeof made>) => void]>([
  ['in another phase', ({ serving }) => void Object.assign(serving, { protocolPhase: 'loading' })],
  ['before any phase', ({ context }) => void Object.assign(context, { serving: undefined })],
  ['without a connection', ({ context }) => void Object.assign(context.session, { current: undefined })],
  ['over a connection that has ended', ({ over }) => over.abort()],
  ['before there is a VM', ({ context }) => void Object.assign(context, { arriving: undefined })],
])('nothing is said %s; later there is', async (_, change) => {
  const parts = made();
  const before = { ...parts.context };
  parts.loader.loaded[0] = 1;
  change(parts);
  parts.reports.report(0);
  await parts.clock.yield();
  expect(parts.said()).toEqual([]);
  // What has changed back: the next report is not held up by the one before it.
  const current = { ...parts.current, signal: new AbortController().signal };
  Object.assign(parts.context, before, { session: { current } });
  parts.serving.protocolPhase = 'receiving';
  parts.reports.report(0);
  await parts.clock.yield();
  expect(parts.said()).toEqual([[0, 1]]);
});

test('a report that cannot be written rejects nobody, and the others are written', async () => {
  const { clock, stream, loader, reports, said } = made();
  loader.loaded = [1, 1, 1];
  stream.taken = Promise.reject(new Error('cut'));
  for (const device of [0, 1]) reports.report(device);
  await clock.yield();
  expect(said()).toEqual([
    [0, 1],
    [1, 1],
  ]);
});

test('a source that comes back is told of every device that has loaded something, as it is at that moment', async () => {
  const { clock, stream, loader, current, said } = made(4);
  loader.loaded = [2, 0, 7, 9];
  const carrier = held();
  stream.taken = carrier.promise;
  const telling = tellLoaded(current as never, loader as never);
  await clock.yield();
  // It is reset while the first one is written.
  loader.loaded[2] = 0;
  loader.loaded[3] = 10;
  carrier.release();
  await telling;
  expect(said()).toEqual([
    [0, 2],
    [3, 10],
  ]);
});

test('a source that is told, and whose connection breaks, is an error of that connection', async () => {
  const { stream, loader, current } = made();
  loader.loaded[0] = 1;
  stream.taken = Promise.reject(new Error('cut'));
  await expect(tellLoaded(current as never, loader as never)).rejects.toThrow('cut');
});
