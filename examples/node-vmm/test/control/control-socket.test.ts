import { once } from 'node:events';
import { mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { GodwitError, type MigrationEvent } from '@godwit/core';
import { afterEach, beforeEach, describe, expect, jest, test } from '@jest/globals';
import { ControlClient } from '../../dist/control/control-client.js';
import { MoveFailed } from '../../dist/control/control-error.js';
import { type ControlHandlers, ControlServer } from '../../dist/control/control-server.js';
import { handlers, warning } from './hand-made-vmm.js';

jest.setTimeout(60_000);

setFlagsFromString('--expose-gc');
const collectGarbage = runInNewContext('gc') as () => void;

/** Bytes of buffers that are still reachable: some are given back by tasks that follow a collection. */
async function externalBytes(): Promise<number> {
  for (let turn = 0; turn < 3; turn++) {
    collectGarbage();
    await new Promise((resolve) => setImmediate(resolve));
  }
  return process.memoryUsage().external;
}

let folder: string;
let path: string;
let server: ControlServer | undefined;
const sockets: net.Socket[] = [];
const clients: ControlClient[] = [];

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'godwit-control-'));
  path = join(folder, 'vmm.sock');
});

afterEach(async () => {
  for (const socket of sockets.splice(0)) socket.destroy();
  for (const client of clients.splice(0)) client.close();
  await server?.close();
  server = undefined;
  rmSync(folder, { recursive: true });
});

async function serve(replaced: Partial<ControlHandlers> = {}): Promise<void> {
  server = await ControlServer.listen(path, handlers(replaced));
}

async function client(): Promise<ControlClient> {
  const made = await ControlClient.connect(path);
  clients.push(made);
  return made;
}

/** A socket without `ControlClient`, on which a test writes its own lines. */
async function raw(): Promise<net.Socket> {
  const socket = net.connect({ path });
  sockets.push(socket);
  socket.on('error', () => {});
  await once(socket, 'connect');
  return socket;
}

/** The next lines of a raw client, as objects. */
async function lines(socket: net.Socket, count: number): Promise<unknown[]> {
  const found: unknown[] = [];
  const reader = createInterface({ input: socket });
  for await (const line of reader) {
    found.push(JSON.parse(line));
    if (found.length === count) break;
  }
  return found;
}

describe('the control socket', () => {
  test('is for its owner alone, and gone when the VMM ends', async () => {
    await serve();
    expect(statSync(path).mode & 0o777).toBe(0o600);
    await server?.close();
    expect(readdirSync(folder)).toEqual([]);
  });

  test('replaces neither the socket of a living VMM nor a file of another kind', async () => {
    await serve();
    await expect(ControlServer.listen(path, handlers())).rejects.toMatchObject({ code: 'GODWIT_CONNECT_FAILED' });
    await expect((await client()).ask('status', {})).resolves.toMatchObject({ guest: 'empty' });
    const other = join(folder, 'file');
    writeFileSync(other, 'mine');
    await expect(ControlServer.listen(other, handlers())).rejects.toMatchObject({ code: 'GODWIT_CONNECT_FAILED' });
    expect(readdirSync(folder)).toEqual(['file', 'vmm.sock']);
  });

  test('answers requests that overlap, each with its id, in the order in which they are done', async () => {
    let release: () => void = () => {};
    const released = new Promise<void>((resolve) => {
      release = resolve;
    });
    await serve({
      check: async () => {
        await released;
        return { pages: 7, defects: [] };
      },
    });
    const socket = await raw();
    socket.write('{"id":"a","command":"check"}\n{"id":2,"command":"status"}\r\n\n');
    const [first] = await lines(socket, 1);
    expect(first).toEqual({ id: 2, reply: { pid: 1, guest: 'empty' } });
    release();
    const again = await raw();
    again.end('{"id":"a","command":"check"}\n');
    expect(await lines(again, 1)).toEqual([{ id: 'a', reply: { pages: 7, defects: [] } }]);
  });

  test('gives an error with code, message and retry, and where the guest is', async () => {
    await serve({
      migrate: async () => {
        throw new MoveFailed(new GodwitError('GODWIT_LINK_LOST', 'gone'), 'here');
      },
      quit: async () => {
        throw new TypeError('a defect');
      },
    });
    const vmm = await client();
    await expect(vmm.ask('migrate', { to: 'tcp:x:1' })).rejects.toMatchObject({
      name: 'ControlError',
      code: 'GODWIT_LINK_LOST',
      message: 'gone',
      retry: true,
      guest: 'here',
      answered: true,
    });
    await expect(vmm.ask('quit', {})).rejects.toMatchObject({
      code: 'GODWIT_INTERNAL',
      message: 'the VMM failed to quit: a defect',
      retry: false,
    });
  });

  test.each([
    ['status', 'a request is JSON on one line'],
    ['7', 'a request is an object'],
    ['{"id":1}', 'there is no command nothing'],
    ['{"id":1,"command":"toString"}', 'there is no command "toString"; there are status, migrate'],
    ['{"id":1,"command":"statsu"}', '"statsu"; there are status, migrate, cancel'],
    ['{"id":1,"command":"statsu"}', '; did you mean "status"?'],
    ['{"id":1,"command":"migrate","to":"tcp:x:1","polcy":"urgent"}', 'takes no "polcy"; it takes to,'],
    ['{"id":1,"command":"migrate","to":"tcp:x:1","polcy":"urgent"}', '; did you mean "policy"?'],
    ['{"id":1,"command":"status","x":1}', '"status" takes no "x"; it takes nothing'],
    ['{"id":1,"command":"adjust","downtimeLimit":1}', 'takes no "downtimeLimit"; it takes downtimeLimitMs'],
    ['{"id":1,"command":"migrate"}', '"migrate" needs to'],
    ['{"id":1,"command":"migrate","to":""}', 'to of "migrate" has to be text, got ""'],
    ['{"id":1,"command":"migrate","to":"tcp:x:1","verify":"yes"}', 'has to be true or false, got "yes"'],
    ['{"id":1,"command":"migrate","to":"tcp:x:1","tls":{"passphrase":"x"}}', 'an object of paths'],
    ['{"id":1,"command":"adjust","bandwidthLimit":-1}', 'a number that is not negative'],
  ])('refuses %s, and goes on', async (line, told) => {
    await serve();
    const socket = await raw();
    socket.write(`${line}\n{"id":9,"command":"status"}\n`);
    expect(await lines(socket, 2)).toEqual([
      {
        id: line.includes('"id":1') ? 1 : null,
        error: { code: 'GODWIT_INVALID_ARGUMENT', message: expect.stringContaining(told), retry: false },
      },
      { id: 9, reply: { pid: 1, guest: 'empty' } },
    ]);
  });

  test('sends the events of a migration to those who asked, and the end as the reply', async () => {
    await serve({
      migrate: async (_request, emit) => {
        emit(warning(1));
        throw new GodwitError('GODWIT_CANCELLED', 'over');
      },
    });
    const events: MigrationEvent[] = [];
    await expect((await client()).ask('migrate', { to: 'x' }, (event) => events.push(event))).rejects.toMatchObject({
      code: 'GODWIT_CANCELLED',
    });
    expect(events).toEqual([warning(1)]);
  });

  test('rejects pending requests, later requests and new clients when the VMM has gone', async () => {
    await serve({ check: () => new Promise(() => {}) });
    const vmm = await client();
    const pending = vmm.ask('check', {});
    await Promise.all([
      expect(pending).rejects.toMatchObject({ code: 'GODWIT_LINK_LOST', answered: false }),
      server?.close(),
    ]);
    await expect(vmm.ask('status', {})).rejects.toMatchObject({ code: 'GODWIT_LINK_LOST', answered: false });
    await expect(ControlClient.connect(path)).rejects.toMatchObject({ code: 'GODWIT_CONNECT_FAILED', answered: false });
  });
});

describe('a client that misbehaves', () => {
  test('with a line without end is cut off, and the others are served', async () => {
    await serve();
    const socket = await raw();
    let told = '';
    socket.setEncoding('utf8').on('data', (text: string) => {
      told += text;
    });
    const closed = new Promise((resolve) => socket.once('close', resolve));
    const piece = 'x'.repeat(16 * 1024);
    const write = (): void => {
      while (!socket.destroyed && socket.write(piece)) {}
    };
    socket.on('drain', write);
    write();
    await closed;
    // The client gets the reason, unless the connection breaks at its own writes before.
    if (told !== '') expect(told).toContain('"code":"GODWIT_LIMIT_EXCEEDED"');
    await expect((await client()).ask('status', {})).resolves.toMatchObject({ guest: 'empty' });
  });

  test('with a line that is one byte too long is told why; a line of 64 KiB is accepted', async () => {
    await serve();
    const line = (length: number): string => `{"command":"status"}`.padEnd(length, ' ');
    const [fits, tooLong] = [await raw(), await raw()];
    fits.write(`${line(65_536)}\n`);
    tooLong.write(`${line(65_537)}\n`);
    expect(await lines(fits, 1)).toEqual([{ id: null, reply: { pid: 1, guest: 'empty' } }]);
    expect(await lines(tooLong, 1)).toEqual([
      { id: null, error: { code: 'GODWIT_LIMIT_EXCEEDED', message: expect.any(String), retry: false } },
    ]);
  });

  test('by reading slowly gets only the newest progress, and every line of other kinds', async () => {
    const progress = (round: number) =>
      ({ type: 'progress', progress: { round, filler: 'x'.repeat(1000) } }) as unknown as MigrationEvent;
    let emitted: () => void = () => {};
    const all = new Promise<void>((resolve) => {
      emitted = resolve;
    });
    await serve({
      migrate: async (_request, emit) => {
        emit(warning(1));
        for (let round = 1; round <= 20_000; round++) {
          emit(progress(round));
          if (round % 100 === 0) await new Promise((resolve) => setImmediate(resolve));
        }
        emit(warning(2));
        emitted();
        throw new GodwitError('GODWIT_CANCELLED', 'over');
      },
    });
    const socket = await raw();
    socket.pause();
    socket.write('{"id":1,"command":"migrate","to":"x","events":true}\n');
    await all;
    const found: { event?: { type: string; progress?: { round: number } }; error?: { code: string } }[] = [];
    for await (const text of createInterface({ input: socket })) {
      found.push(JSON.parse(text));
      if (found.at(-1)?.error !== undefined) break;
    }
    const rounds = found.flatMap(({ event }) => (event?.progress === undefined ? [] : [event.progress.round]));
    expect(rounds.at(-1)).toBe(20_000);
    expect(rounds.length).toBeLessThan(5000);
    expect(found.filter(({ event }) => event?.type === 'warning')).toHaveLength(2);
    expect(found.at(-1)?.error).toMatchObject({ code: 'GODWIT_CANCELLED' });
  });

  test('by not reading is cut off, and delays no other client', async () => {
    const before = await externalBytes();
    let emitted = 0;
    let go: () => void = () => {};
    const cut = new Promise<void>((resolve) => {
      go = resolve;
    });
    await serve({
      migrate: async (_request, emit) => {
        for (; emitted < 10_000; emitted++) {
          emit(warning(10_000));
          // Lets the socket send what its reader has room for.
          if (emitted % 100 === 0) await new Promise((resolve) => setImmediate(resolve));
        }
        go();
        return await new Promise<never>(() => {});
      },
    });
    const socket = await raw();
    socket.pause();
    socket.write('{"id":1,"command":"migrate","to":"x","events":true}\n');
    await cut;
    // 100 MB were emitted. The client was cut off at 1 MiB, and the VMM keeps none of the rest. Buffers of earlier tests may be freed
    // meanwhile.
    expect((await externalBytes()) - before).toBeLessThan(60 * 2 ** 20);
    await expect((await client()).ask('status', {})).resolves.toMatchObject({ guest: 'empty' });
    let bytes = 0;
    socket.on('data', (piece) => {
      bytes += piece.length;
    });
    socket.resume();
    await once(socket, 'close');
    expect(bytes).toBeLessThan(4 * 2 ** 20);
  });

  test('by sending nothing is cut off when there are too many clients; one that waits for an answer is not', async () => {
    let asked: () => void = () => {};
    const waits = new Promise<void>((resolve) => {
      asked = resolve;
    });
    await serve({
      check: () => {
        asked();
        return new Promise(() => {});
      },
    });
    const busy = await client();
    busy.ask('check', {}).catch(() => {});
    // From here on, the last request of this client is older than those of all other clients.
    await waits;
    const silent: net.Socket[] = [];
    for (let i = 0; i < 63; i++) silent.push(await raw());
    const [first] = silent;
    const closed = once(first as net.Socket, 'close');
    first?.resume();
    await expect((await client()).ask('status', {})).resolves.toMatchObject({ guest: 'empty' });
    await closed;
    await expect(busy.ask('status', {})).resolves.toMatchObject({ guest: 'empty' });
  });

  test('with too many requests at once gets an error for those beyond', async () => {
    await serve({ check: () => new Promise(() => {}) });
    const socket = await raw();
    socket.write('{"id":1,"command":"check"}\n'.repeat(16));
    socket.write('{"id":2,"command":"check"}\n');
    expect(await lines(socket, 1)).toEqual([
      { id: 2, error: { code: 'GODWIT_LIMIT_EXCEEDED', message: expect.any(String), retry: true } },
    ]);
  });

  test('by leaving while its command runs does not affect the VMM', async () => {
    let finish: () => void = () => {};
    let left: () => void = () => {};
    const gone = new Promise<void>((resolve) => {
      left = resolve;
    });
    await serve({
      check: async () => {
        left();
        await new Promise<void>((resolve) => {
          finish = resolve;
        });
        return { pages: 1, defects: [] };
      },
    });
    const socket = await raw();
    socket.write('{"id":1,"command":"check"}\n');
    await gone;
    socket.destroy();
    finish();
    await expect((await client()).ask('status', {})).resolves.toMatchObject({ guest: 'empty' });
  });
});
