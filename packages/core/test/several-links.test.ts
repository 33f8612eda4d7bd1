import { type Frame, type FrameStream, type MigrationLink, migrate, receive, roundCap } from '@godwit/core';
import { type FrameTap, memoryLink, ToyVm, VirtualClock } from '@godwit/core/testing';
import { expect, test } from '@jest/globals';
import { ResendWatch } from './resend-watch.js';
import { BLOCKS, expectMoved, filledVm, PAGE, start, type Toy } from './toy-migration.js';

/** The source loses every stream of this link; the destination hears nothing of that. */
function severable(link: MigrationLink) {
  let sever: () => void = () => {};
  const severed = new Promise<never>((_, reject) => {
    sever = () => reject(Object.assign(new Error('no answer any more'), { code: 'ETIMEDOUT' }));
  });
  severed.catch(() => {});
  let silent = false;
  const wrap = (stream: FrameStream): FrameStream => ({
    get bytesRead() {
      return stream.bytesRead;
    },
    get bytesWritten() {
      return stream.bytesWritten;
    },
    write: (frame, payload) => (silent ? severed : Promise.race([severed, stream.write(frame, payload)])),
    read: () => Promise.race([severed, stream.read()]),
    readPayload: (into) => stream.readPayload(into),
    skipPayload: () => stream.skipPayload(),
    close: () => (silent ? Promise.resolve() : stream.close()),
    abort: (reason) => void (silent || stream.abort(reason)),
  });
  return {
    link: { ...link, control: wrap(link.control), pageChannels: link.pageChannels.map(wrap) },
    sever() {
      silent = true;
      sever();
    },
  };
}

test.each([0, 2])(
  'a link that is dead for the source only is superseded, and all of it is ignored any more (%i page channels)',
  async (pageChannels) => {
    const clock = new VirtualClock();
    const watch = new ResendWatch();
    let sever: (() => void) | undefined;
    let acks = 0;
    const fromDestination: FrameTap = (frame, payload, channel) => {
      if (frame.type === 'roundAck' && ++acks === 1) {
        sever?.();
        return undefined;
      }
      return watch.fromDestination(frame, payload, channel);
    };
    const link = memoryLink({ clock, fromSource: watch.fromSource, fromDestination });
    const toy = start({
      listener: link.listener,
      connector: {
        async connect(request, signal) {
          const made = severable(await link.connector.connect(request, signal));
          sever = made.sever;
          return made.link;
        },
      },
      migrate: { clock, pageChannels, verify: true, policy: roundCap(2, 'switchover') },
      receive: { clock },
    });
    expectMoved(toy, await toy.settled());
    expect(watch.connections).toBe(2);
    expect(watch.resent).toEqual([]);
    expect(link.openStreams).toBe(0);
    expect(toy.incomingEvents).toContainEqual({
      type: 'link-lost',
      reason: expect.objectContaining({ message: expect.stringContaining('connection 2') }),
    });
  },
);

test('an equal or lower connection, and one of another VM, are refused; the migration goes on', async () => {
  const clock = new VirtualClock();
  const refused: string[] = [];
  const intrude = async (change: object): Promise<void> => {
    const { control } = await link.connector.connect(
      { migrationId: toy.migration.id, pageChannels: 0, connection: 1 },
      new AbortController().signal,
    );
    await control.write({ ...hello, ...change } as Frame);
    const answer = await control.read();
    if (answer?.frame.type === 'error') refused.push(`${answer.frame.code}: ${answer.frame.message}`);
    await control.close();
  };
  let hello: Frame | undefined;
  const link = memoryLink({
    clock,
    fromSource: (frame, payload) => {
      if (frame.type === 'hello') hello ??= frame;
      return { frame, payload };
    },
  });
  const intrusions: Promise<void>[] = [];
  const toy: Toy = start({
    listener: link.listener,
    connector: link.connector,
    migrate: {
      clock,
      policy: (input) => {
        if (input.outcome.round === 1) {
          intrusions.push(
            intrude({ connection: 1 }),
            intrude({ connection: 0 }),
            intrude({ connection: 7, stage: 'handedOver' }),
            intrude({ connection: 8, pageSize: 8192 }),
          );
        }
        return roundCap(6, 'switchover')(input) ?? { action: 'continue', reason: 'on and on' };
      },
    },
    receive: { clock },
  });
  const ends = await toy.settled();
  await Promise.all(intrusions);
  expectMoved(toy, ends);
  expect(refused.map((message) => message.slice(0, 15))).toEqual(Array(4).fill('GODWIT_PROTOCOL'));
  expect(toy.events.some(({ type }) => type === 'link-lost')).toBe(false);
});

test('several incoming migrations on one listener, each with lost links of its own', async () => {
  const clock = new VirtualClock();
  const names = [0, 1, 2, 3];
  const link = memoryLink({ clock });
  const sources = names.map((name) => {
    const vm = filledVm();
    vm.write(0, 63 * PAGE, Uint8Array.of(name + 1));
    return vm;
  });
  const destinations = names.map(() => new ToyVm(BLOCKS, { running: false }));
  const arrivals = names.map(() =>
    receive(link.listener, { clock, prepare: (description) => destinations[description as number] as ToyVm }),
  );
  const migrations = names.map((name) =>
    migrate(
      sources[name] as ToyVm,
      {
        async connect(request, signal) {
          const { link: made, sever } = severable(await link.connector.connect(request, signal));
          const { control } = made;
          let frames = 0;
          const write: FrameStream['write'] = (frame, payload) => {
            // Each at other frames, three times.
            if (sources[name]?.running && ++frames === 5 + name && request.connection < 4) sever();
            return control.write(frame, payload);
          };
          return { ...made, control: Object.assign(Object.create(control) as FrameStream, { write }) };
        },
      },
      { clock, description: name, verify: true, policy: roundCap(4, 'switchover') },
    ),
  );
  await Promise.all([...migrations, ...arrivals].map(({ result }) => result));
  for (const name of names) {
    expect(sources[name]?.memory.firstDifference((destinations[name] as ToyVm).memory)).toBeUndefined();
    expect([sources[name]?.running, destinations[name]?.running]).toEqual([false, true]);
  }
  expect(link.openStreams).toBe(0);
});

test('two migrations of one id: the second is told, and the first goes on', async () => {
  const clock = new VirtualClock();
  const migrationId = 'ab'.repeat(16);
  const link = memoryLink({ clock, bytesPerSecond: 1e6 });
  const other = filledVm();
  const toy = start({
    listener: link.listener,
    connector: link.connector,
    migrate: { clock, migrationId },
    receive: { clock },
  });
  const second = migrate(other, link.connector, { clock, migrationId });
  await expect(second.result).rejects.toMatchObject({ code: 'GODWIT_PROTOCOL', remote: true });
  expect(other.running).toBe(true);
  expectMoved(toy, await toy.settled());
});

test('a link that comes back and is lost again, with nothing done in between, has not come back', async () => {
  const toy: Toy = start({
    link: {
      fromSource: (frame, payload) => {
        if (frame.type === 'roundEnd') toy.link.cut();
        return { frame, payload };
      },
    },
  });
  const ends = await toy.settled();
  expect(ends.sent).toMatchObject({
    reason: { code: 'GODWIT_LINK_LOST', message: expect.stringContaining('reconnectTimeoutMs (30000 ms)') },
  });
  expect(toy.source.running).toBe(true);
  expect(toy.clock.now()).toBeGreaterThan(29_000);
  expect(toy.clock.now()).toBeLessThan(65_000);
}, 60_000);
