import { PassThrough } from 'node:stream';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { Qmp } from '../qemu/qemu/qmp.js';

let from: PassThrough;
let to: PassThrough;
let qmp: Qmp;

beforeEach(() => {
  from = new PassThrough();
  to = new PassThrough();
  qmp = new Qmp(from, to);
});
afterEach(() => {
  from.destroy();
  to.destroy();
});

const say = (...messages: object[]): void => {
  from.write(messages.map((message) => `${JSON.stringify(message)}\n`).join(''));
};
const asked = (): unknown[] =>
  String(to.read() ?? '')
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line));

test('answers go to the commands that they are for, in whatever order they come', async () => {
  say({ QMP: { version: {} } });
  const first = qmp.execute('query-status');
  const second = qmp.execute('migrate', { uri: 'tcp:127.0.0.1:1' });
  expect(asked()).toEqual([
    { execute: 'query-status', arguments: {}, id: 0 },
    { execute: 'migrate', arguments: { uri: 'tcp:127.0.0.1:1' }, id: 1 },
  ]);
  say({ return: {}, id: 1 }, { return: { status: 'running' }, id: 0 });
  expect(await first).toEqual({ status: 'running' });
  expect(await second).toEqual({});
});

test("a refusal has QEMU's words", async () => {
  const refused = qmp.execute('migrate', { uri: '' });
  say({ error: { class: 'GenericError', desc: 'unknown migration protocol' }, id: 0 });
  await expect(refused).rejects.toThrow('QEMU refused migrate: unknown migration protocol');
});

test('an event is found, with its time, whether it came before the call or comes later', async () => {
  const timestamp = { seconds: 1_700_000_000, microseconds: 123_456 };
  say({ event: 'STOP', timestamp }, { event: 'MIGRATION', data: { status: 'active' }, timestamp });
  expect((await qmp.event(({ event }) => event === 'MIGRATION')).data).toEqual({ status: 'active' });
  expect((await qmp.event(({ event }) => event === 'STOP')).atMs).toBe(1_700_000_000_123.456);
  const resumed = qmp.event(({ event }) => event === 'RESUME');
  say({ event: 'RESUME', timestamp });
  expect((await resumed).event).toBe('RESUME');
});

test('when QEMU ends, pending and later calls reject with the reason', async () => {
  const answer = qmp.execute('query-status');
  const event = qmp.event(() => false);
  qmp.close(new Error('QEMU ended with status 1'));
  await expect(answer).rejects.toThrow('QEMU ended with status 1');
  await expect(event).rejects.toThrow('QEMU ended with status 1');
  await expect(qmp.execute('quit')).rejects.toThrow('QEMU ended with status 1');
});
