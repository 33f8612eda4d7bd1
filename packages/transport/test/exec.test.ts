import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { GodwitError } from '@godwit/core';
import { type ByteStream, connectTo, exec, unix } from '@godwit/transport';
import { transportSuite } from '@godwit/transport/testing';
import { afterAll, describe, expect, jest, test } from '@jest/globals';

jest.setTimeout(30_000);

const MiB = 2 ** 20;
const over = new GodwitError('GODWIT_CANCELLED', 'the test is over');
const directory = await mkdtemp(join(tmpdir(), 'godwit-exec-'));
afterAll(() => rm(directory, { recursive: true }));
const bridge = join(import.meta.dirname, 'stdio-bridge.js');
let sockets = 0;

// The command carries its stdio() to a UNIX socket that we listen on, so that we hold both ends.
transportSuite(
  'exec and stdio',
  { describe, test },
  {
    listen: () => unix({ path: join(directory, `${sockets++}.sock`) }).listen(),
    connect: (listener, signal) =>
      exec({ command: process.execPath, args: [bridge, listener.address.slice('unix:'.length)] }).connect(signal),
    tellsAbort: false,
    mostHeld: 8 * MiB,
    capabilities: { streamsAtOnce: 3, shortConnections: 4, tellsRefusal: false },
  },
);

async function text(stream: ByteStream): Promise<string> {
  const room = new Uint8Array(100_000);
  let at = 0;
  for (;;) {
    const count = await stream.read(room.subarray(at));
    if (count === 0) return Buffer.from(room.subarray(0, at)).toString();
    at += count;
  }
}

/** Signal 0 asks whether the process is there. */
async function gone(pid: number): Promise<void> {
  for (;;) {
    try {
      process.kill(pid, 0);
    } catch {
      return;
    }
    await delay(5);
  }
}

describe('exec', () => {
  test('runs a shell command, both directions, to a clean end', async () => {
    const stream = await exec('tr a-z A-Z').connect();
    await stream.write([Buffer.from('godwit')]);
    await stream.close();
    expect(await text(stream)).toBe('GODWIT');
    expect(await stream.read(new Uint8Array(1))).toBe(0);
  });

  test('tells the exit code and standard error, for reads and writes', async () => {
    const stream = await exec('echo part; echo "Permission denied (publickey)." >&2; exit 255').connect();
    const expected = {
      code: 'GODWIT_LINK_LOST',
      message: expect.stringMatching(/exit code 255, and said: Permission denied/),
    };
    await expect(text(stream)).rejects.toMatchObject(expected);
    await expect(stream.write([new Uint8Array(1)])).rejects.toMatchObject(expected);
    await stream.close();
  });

  test('reports a peer write in the same words', async () => {
    const stream = await exec('read line; echo "no space" >&2; exit 3').connect();
    const writing = stream.write([new Uint8Array(8 * MiB).fill(10)]);
    await expect(writing).rejects.toMatchObject({ message: expect.stringMatching(/exit code 3, and said: no space/) });
    stream.abort(over);
  });

  test('keeps a bounded end of a long standard error', async () => {
    const stream = await exec('head -c 3000000 /dev/zero | tr "\\0" x >&2; echo the last words >&2; exit 1').connect();
    const error = await text(stream).catch((reason: GodwitError) => reason.message);
    expect(error).toMatch(/: \.\.\.x+the last words$/);
    expect(error.length).toBeLessThan(4500);
  });

  test('tells the signal that ended it', async () => {
    const stream = await exec('kill -9 $$').connect();
    await expect(text(stream)).rejects.toMatchObject({
      message: expect.stringContaining('ended by SIGKILL, and said nothing'),
    });
  });

  test('a program that does not exist', async () => {
    await expect(exec({ command: 'godwit-no-such-program' }).connect()).rejects.toMatchObject({
      code: 'GODWIT_CONNECT_FAILED',
      message: expect.stringContaining('no such program in PATH'),
    });
    await expect(exec('true').listen()).rejects.toMatchObject({ code: 'GODWIT_INVALID_ARGUMENT' });
    expect(() => exec('  ')).toThrow(/needs a command/);
  });

  test('an abort leaves neither the command nor what it started', async () => {
    const stream = await exec('sleep 1000 & echo $!; trap "" TERM; echo $$; wait; sleep 1000').connect();
    const room = new Uint8Array(100);
    let said = '';
    while (said.split('\n').length < 3) said += Buffer.from(room.subarray(0, await stream.read(room))).toString();
    stream.abort(over);
    await Promise.all(
      said
        .trim()
        .split('\n')
        .map((pid) => gone(Number(pid))),
    );
  });

  test('a command that stays when both directions have ended is ended after lingerMs', async () => {
    const stream = await exec({
      command: 'sh',
      args: ['-c', 'echo $$; exec >&-; exec sleep 1000'],
      lingerMs: 50,
    }).connect();
    const pid = Number(await text(stream));
    await stream.close();
    await gone(pid);
  });

  test('what a shell prints at login is shown as the words that it is', async () => {
    const connector = connectTo(exec('echo "Welcome to host b"; cat'));
    const link = await connector.connect(
      { migrationId: '0'.repeat(32), pageChannels: 0, connection: 1 },
      AbortSignal.timeout(10_000),
    );
    await expect(link.control.read()).rejects.toMatchObject({
      code: 'GODWIT_BAD_STREAM',
      message: expect.stringContaining('got text: "Welcome to host b"; usually that is what a login shell prints'),
      retry: false,
    });
    link.control.abort(over);
  });
});
