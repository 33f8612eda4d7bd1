import { execFileSync } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, jest, test } from '@jest/globals';
import { ANY, WITH_GUEST } from '../../dist/command/client-command.js';
import { allVmms, findVmm } from '../../dist/command/find-vmm.js';
import { controlFolder, controlSockets, makeControlFolder } from '../../dist/control/control-folder.js';
import type { VmmStatus } from '../../dist/control/control-protocol.js';
import { ControlServer } from '../../dist/control/control-server.js';
import { handlers } from '../control/hand-made-vmm.js';

jest.setTimeout(60_000);

let runtime: string;
const runtimeBefore = process.env['XDG_RUNTIME_DIR'];
const servers: ControlServer[] = [];

beforeEach(() => {
  runtime = mkdtempSync(join(tmpdir(), 'godwit-find-'));
  process.env['XDG_RUNTIME_DIR'] = runtime;
});

afterEach(async () => {
  if (runtimeBefore === undefined) delete process.env['XDG_RUNTIME_DIR'];
  else process.env['XDG_RUNTIME_DIR'] = runtimeBefore;
  await Promise.all(servers.splice(0).map((server) => server.close()));
  rmSync(runtime, { recursive: true });
});

/** Serves a control socket in the user's folder that answers `status` with this status, or never. */
async function vmm(n: number, status: Omit<VmmStatus, 'pid'> | undefined): Promise<string> {
  const path = join(makeControlFolder(), `vmm${n}.sock`);
  const answer = async (): Promise<VmmStatus> =>
    status === undefined ? new Promise<never>(() => {}) : { pid: n, ...status };
  servers.push(await ControlServer.listen(path, handlers({ status: answer })));
  return path;
}

const wanted = { control: undefined, waitMs: 0 };

describe('findVmm', () => {
  test('finds the only VMM that fits, beside dead VMMs and VMMs that hang', async () => {
    const folder = makeControlFolder();
    const dead = join(folder, 'vmm1.sock');
    const script = `require('net').createServer().listen(${JSON.stringify(dead)}, () => process.kill(process.pid, 'SIGKILL'))`;
    expect(() => execFileSync(process.execPath, ['-e', script], { stdio: 'ignore' })).toThrow();
    writeFileSync(join(folder, 'notes'), '');
    await vmm(2, undefined);
    await vmm(3, { guest: 'empty', listening: 'tcp://0.0.0.0:4444' });
    const path = await vmm(10, { guest: 'running' });
    expect(controlSockets().map((one) => one.slice(folder.length + 1))).toEqual([
      'vmm1.sock',
      'vmm2.sock',
      'vmm3.sock',
      'vmm10.sock',
    ]);
    const client = await findVmm({ ...wanted, ...WITH_GUEST });
    expect(client.path).toBe(path);
    client.close();
    const all = await allVmms();
    expect(all.map(({ status }) => status.pid)).toEqual([3, 10]);
    for (const one of all) one.client.close();
  });

  test('asks for --control where several VMMs fit', async () => {
    const paths = [await vmm(1, { guest: 'running' }), await vmm(2, { guest: 'paused' })];
    const asked = findVmm({ ...wanted, ...WITH_GUEST });
    await expect(asked).rejects.toMatchObject({
      answered: false,
      message: expect.stringMatching(
        /which one\? Give --control PATH: \S+vmm1\.sock \(guest running\); \S+vmm2\.sock \(guest paused\)/,
      ),
    });
    const client = await findVmm({ ...wanted, ...ANY, control: paths[1] });
    expect(client.path).toBe(paths[1]);
    client.close();
  });

  test('waits for a VMM that starts later', async () => {
    const coming = findVmm({ ...wanted, ...ANY, waitMs: 30_000 });
    const path = await vmm(1, { guest: 'empty' });
    const client = await coming;
    expect(client.path).toBe(path);
    client.close();
    await expect(findVmm({ ...wanted, ...WITH_GUEST })).rejects.toMatchObject({
      answered: false,
      message: expect.stringContaining('no VMM with a guest is found'),
    });
  });
});

describe('the folder of control sockets', () => {
  test('is made for its user alone', () => {
    expect(makeControlFolder()).toBe(join(runtime, 'godwit'));
    expect(controlFolder()).toBe(join(runtime, 'godwit'));
    expect(controlSockets()).toEqual([]);
  });

  test('is refused if other users may write to it, or if it is a symbolic link', () => {
    const open = join(runtime, 'open');
    mkdirSync(open);
    chmodSync(open, 0o777);
    expect(() => makeControlFolder(open)).toThrow(expect.objectContaining({ code: 'GODWIT_PERMISSION' }));
    symlinkSync(runtime, join(runtime, 'link'));
    expect(() => makeControlFolder(join(runtime, 'link'))).toThrow(
      expect.objectContaining({ code: 'GODWIT_PERMISSION' }),
    );
  });
});
