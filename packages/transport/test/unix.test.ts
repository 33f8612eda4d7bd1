import { execFileSync } from 'node:child_process';
import { mkdir, mkdtemp, readdir, rm, stat, unlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { GodwitError } from '@godwit/core';
import { type Listener, unix } from '@godwit/transport';
import { afterEach, beforeEach, describe, expect, jest, test } from '@jest/globals';

jest.setTimeout(30_000);

const over = new GodwitError('GODWIT_CANCELLED', 'the test is over');
let folder: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'godwit-unix-'));
});

afterEach(() => rm(folder, { recursive: true }));

/** Leaves the socket file of a process that was killed. */
async function leaveDead(path: string): Promise<void> {
  const script = `require('net').createServer().listen(${JSON.stringify(path)}, () => process.kill(process.pid, 'SIGKILL'))`;
  expect(() => execFileSync(process.execPath, ['-e', script], { stdio: 'ignore' })).toThrow();
  expect((await stat(path)).isSocket()).toBe(true);
}

/** A connection to `path` arrives at `listener`. Looks at whether somebody is there arrive too, and say nothing. */
async function reaches(path: string, listener: Listener): Promise<void> {
  const near = await unix({ path }).connect();
  await near.write([Uint8Array.of(7)]);
  const into = new Uint8Array(1);
  for (let count = 0; count === 0; ) {
    const far = await listener.accept();
    count = await far.read(into);
    far.abort(over);
  }
  expect(into[0]).toBe(7);
  near.abort(over);
}

describe('a UNIX socket', () => {
  test('has the only file that its listener makes, and removes it when it closes', async () => {
    const path = join(folder, 'own.sock');
    const listener = await unix({ path }).listen();
    expect(await readdir(folder)).toEqual(['own.sock']);
    expect((await stat(path)).isSocket()).toBe(true);
    await listener.close();
    expect(await readdir(folder)).toEqual([]);
  });

  test('has the rights that were asked for, whatever the umask, which stays as it was', async () => {
    const path = join(folder, 'rights.sock');
    for (const umask of [0o000, 0o022, 0o777]) {
      const before = process.umask(umask);
      try {
        const listener = await unix({ path, mode: 0o600 }).listen();
        expect((await stat(path)).mode & 0o777).toBe(0o600);
        expect(process.umask()).toBe(umask);
        await listener.close();
      } finally {
        process.umask(before);
      }
    }
    expect(() => unix({ path, mode: 0o1777 })).toThrow(expect.objectContaining({ code: 'GODWIT_INVALID_ARGUMENT' }));
  });

  test('that was removed and is listened at by another keeps the file of the other', async () => {
    const path = join(folder, 's');
    const first = await unix({ path }).listen();
    await unlink(path);
    const second = await unix({ path }).listen();
    await first.close();
    await reaches(path, second);
    await second.close();
    expect(await readdir(folder)).toEqual([]);
  });

  test('whose file was replaced by one of another kind leaves it', async () => {
    const path = join(folder, 's');
    const listener = await unix({ path }).listen();
    await unlink(path);
    await writeFile(path, 'precious');
    await listener.close();
    expect((await stat(path)).size).toBe(8);
  });

  test('replaces the file of a process that died', async () => {
    const path = join(folder, 'dead.sock');
    await leaveDead(path);
    const listener = await unix({ path }).listen();
    await reaches(path, listener);
    await listener.close();
    expect(await readdir(folder)).toEqual([]);
  });

  test('goes to one of two who find the file of a dead process at the same time', async () => {
    const path = join(folder, 'dead.sock');
    for (let round = 0; round < 5; round++) {
      await leaveDead(path);
      const outcomes = await Promise.allSettled([unix({ path }).listen(), unix({ path }).listen()]);
      const listeners = outcomes.flatMap((outcome) => (outcome.status === 'fulfilled' ? [outcome.value] : []));
      expect(listeners).toHaveLength(1);
      const listener = listeners[0] as Listener;
      expect(outcomes.find(({ status }) => status === 'rejected')).toMatchObject({
        reason: { code: 'GODWIT_CONNECT_FAILED', message: expect.stringMatching(/listens there|listen there/) },
      });
      await reaches(path, listener);
      await listener.close();
      expect(await readdir(folder)).toEqual([]);
    }
  });

  test('refuses a living socket, another kind of file and a folder that is not there', async () => {
    const path = join(folder, 'living.sock');
    const listener = await unix({ path }).listen();
    await expect(unix({ path }).listen()).rejects.toMatchObject({
      code: 'GODWIT_CONNECT_FAILED',
      message: expect.stringContaining('a living process listens there (EADDRINUSE)'),
      retry: true,
      cause: { code: 'EADDRINUSE' },
    });
    await reaches(path, listener);
    await listener.close();
    const file = join(folder, 'file');
    await writeFile(file, 'precious');
    await expect(unix({ path: file }).listen()).rejects.toMatchObject({
      code: 'GODWIT_CONNECT_FAILED',
      message: expect.stringContaining('a file of another kind (EADDRINUSE)'),
      retry: false,
      cause: { code: 'EADDRINUSE' },
    });
    expect((await stat(file)).size).toBe(8);
    await expect(unix({ path: join(folder, 'none', 's') }).listen()).rejects.toMatchObject({
      code: 'GODWIT_CONNECT_FAILED',
      message: expect.stringContaining(`there is no folder ${join(folder, 'none')} (ENOENT); make it first`),
      retry: false,
      cause: { code: 'ENOENT' },
    });
  });

  test('may have a path of 107 bytes, however few of them are its name; 108 are refused', async () => {
    for (const length of [1, 2, 5, 40]) {
      const deep = join(folder, 'd'.repeat(107 - folder.length - 2 - length));
      await mkdir(deep);
      const path = join(deep, 's'.repeat(length));
      expect(Buffer.byteLength(path)).toBe(107);
      const listener = await unix({ path }).listen();
      await reaches(path, listener);
      await listener.close();
      expect(await readdir(deep)).toEqual([]);
    }
    expect(() => unix({ path: `/tmp/${'x'.repeat(103)}` })).toThrow(/1 to 107 bytes.* has 108/);
  });

  test('may have a name of the abstract namespace', async () => {
    const path = `\0godwit-unix-${process.pid}`;
    const listener = await unix({ path }).listen();
    await reaches(path, listener);
    await listener.close();
  });
});
