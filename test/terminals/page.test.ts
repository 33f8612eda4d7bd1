import { get } from 'node:http';
import { createServer } from 'node:net';
import type { MigrationModel } from '@godwit/observe';
import { expect, jest, test } from '@jest/globals';
import { describeInTerminals, ownTerminals } from './own-terminals.js';
import type { Terminal } from './tmux.js';
import { GUEST } from './vmm-command.js';

jest.setTimeout(240_000);

const own = ownTerminals();

/** The control socket of the first VMM. */
const source = (): readonly string[] => ['--control', own.user.path('godwit/vmm1.sock')];

async function running(): Promise<Terminal> {
  const terminal = own.tmux.open(own.user.line(['run', ...GUEST]));
  await terminal.shows(/heartbeat 000001/);
  return terminal;
}

/** A VMM that waits for a guest, with a page of it. */
async function receiving(): Promise<{ terminal: Terminal; at: string; page: string }> {
  const terminal = own.tmux.open(own.user.line(['receive', 'tcp:127.0.0.1:0', '--page']));
  const [, page = ''] = await terminal.shows(/page: (http:\S+)/);
  const [, at = ''] = await terminal.shows(/a guest may come to (\S+)/);
  return { terminal, at, page };
}

function model(url: string): Promise<MigrationModel> {
  return new Promise((resolve, reject) => {
    const request = get(`${url}model.json`, { agent: false }, (response) => {
      let text = '';
      response.setEncoding('utf8').on('data', (piece) => {
        text += piece;
      });
      response.on('end', () => resolve(JSON.parse(text) as MigrationModel));
    });
    request.on('error', reject);
  });
}

/** Asks for the model until it is as wanted. */
async function modelWith(url: string, wanted: (model: MigrationModel) => boolean): Promise<MigrationModel> {
  for (;;) {
    const now = await model(url);
    if (wanted(now)) return now;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

describeInTerminals('a live page', () => {
  test('of `migrate` has the numbers of the VMM, and stays after the move; `receive` has one of its own', async () => {
    await running();
    const destination = await receiving();
    expect(destination.page).toMatch(/^http:\/\/127\.0\.0\.1:\d+\/$/);
    expect(await model(destination.page)).toMatchObject({
      title: `A guest comes to ${destination.at}`,
      source: null,
      destination: { states: { state: 'none' } },
    });
    const mover = own.tmux.open(own.user.line(['migrate', destination.at, '--bandwidth', '1M', '--verify', '--page']));
    const [, page = ''] = await mover.shows(/page: (http:\S+)/);
    await mover.shows(/round 1: \d+ %/);
    expect(await modelWith(page, ({ source: side }) => side?.bandwidthLimit === 2 ** 20)).toMatchObject({
      title: `A guest, to ${destination.at}`,
      over: false,
      guest: 'source',
      source: { states: { state: 'active' }, downtimeLimitMs: 300, progress: { round: 1 } },
      destination: null,
    });
    expect(await model(destination.page)).toMatchObject({
      guest: 'source',
      destination: { states: { state: 'active' } },
    });

    // What is adjusted from another terminal is on the page too.
    await own.user.vmm('adjust', ...source(), '--bandwidth', '0', '--downtime-limit', '500');
    await modelWith(page, ({ source: side }) => side?.bandwidthLimit === 0 && side.downtimeLimitMs === 500);
    await mover.shows(/moved to .*pages compared: equal[\s\S]*the page stays at http/);
    const moved = await model(page);
    expect(moved).toMatchObject({
      over: true,
      guest: 'destination',
      source: { states: { state: 'completed' }, ownership: 'released', summary: { verified: true } },
    });
    expect(moved.rounds.count).toBe(moved.source?.summary?.rounds);
    mover.press('C-c');
    expect(await mover.exit()).toBe(0);
    await expect(model(page)).rejects.toMatchObject({ code: 'ECONNREFUSED' });
    expect(await model(destination.page)).toMatchObject({
      over: true,
      guest: 'destination',
      destination: { states: { state: 'completed' }, ownership: 'settled' },
    });

    expect(await own.user.vmm('quit')).toMatchObject({ status: 0 });
    expect(await destination.terminal.exit()).toBe(0);
    await expect(model(destination.page)).rejects.toMatchObject({ code: 'ECONNREFUSED' });
  });

  test('shows the attempt that was given up, and at the same address the next one', async () => {
    await running();
    const destination = await receiving();
    const mover = own.tmux.open(own.user.line(['migrate', destination.at, '--bandwidth', '1M', '--page']));
    const [, page = ''] = await mover.shows(/page: (http:\S+)/);
    await mover.shows(/round 1: \d+ %/);
    await own.user.vmm('cancel', ...source());
    await mover.shows(/GODWIT_CANCELLED[\s\S]*the page stays at/);
    expect(await model(page)).toMatchObject({
      over: true,
      guest: 'source',
      source: { states: { state: 'cancelled' }, error: { code: 'GODWIT_CANCELLED' } },
    });
    mover.press('C-c');
    expect(await mover.exit()).toBe(7);
    await destination.terminal.shows(/another guest may come/);
    await modelWith(destination.page, (now) => now.destination?.states.state === 'none');

    // Without a terminal the page ends with the command.
    const saved = await own.user.json('snapshot', own.user.path('guest.snap'), '--live', '--page', ...source());
    const [first = ''] = saved.stdout.split('\n');
    const { page: at } = JSON.parse(first) as { page: string };
    expect(saved).toMatchObject({ status: 0, last: { result: 'saved' } });
    await expect(model(at)).rejects.toMatchObject({ code: 'ECONNREFUSED' });
  });

  test('at a port that is taken is refused, and nothing has happened', async () => {
    const terminal = await running();
    const taken = createServer();
    const port = await new Promise<string>((resolve) => {
      taken.listen(0, '127.0.0.1', () => resolve(String((taken.address() as { port: number }).port)));
    });
    const told = expect.stringContaining(`--page: the page cannot be served at 127.0.0.1, port ${port}: `);
    expect(await own.user.json('migrate', 'tcp:127.0.0.1:1', '--page', port)).toMatchObject({
      status: 2,
      stderr: told,
    });
    expect(await own.user.vmm('receive', 'tcp:127.0.0.1:0', '--page', port)).toMatchObject({ status: 2, stderr: told });
    taken.close();
    expect((await own.user.json('status')).last).toMatchObject({ guest: 'running' });
    expect((await own.user.json('status')).last).not.toHaveProperty('migration');
    expect(await own.user.vmm('migrate', '--page', 'tcp:127.0.0.1:1')).toMatchObject({
      status: 2,
      stderr: expect.stringContaining('It is a port from 0 to 65535; without one, give --page last.'),
    });
    await terminal.shows(/heartbeat 000003/);
  });
});
