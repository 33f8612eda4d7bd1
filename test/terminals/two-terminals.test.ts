import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import net from 'node:net';
import { type MigratableVm, receive } from '@godwit/core';
import { Machine, SoftwareMachine, type VirtualMachine } from '@godwit/example-node-vmm';
import { listenOn, unix } from '@godwit/transport';
import { describe, expect, jest, test } from '@jest/globals';
import { describeInTerminals, ownTerminals } from './own-terminals.js';
import type { Terminal } from './tmux.js';
import { certificates, GUEST } from './vmm-command.js';

jest.setTimeout(240_000);

const own = ownTerminals();

/** A running guest, in a terminal of its own. */
async function running(...options: readonly string[]): Promise<Terminal> {
  const terminal = own.tmux.open(own.user.line(['run', ...GUEST, ...options]));
  await terminal.shows(/heartbeat 000002/);
  return terminal;
}

/** A VMM that waits for a guest; resolves with its address once it listens. */
async function receiving(uri: string, ...options: readonly string[]): Promise<{ terminal: Terminal; at: string }> {
  const terminal = own.tmux.open(own.user.line(['receive', uri, ...options]));
  const [, at = ''] = await terminal.shows(/a guest may come to (\S+)/);
  return { terminal, at };
}

function writeKey(name: string): void {
  writeFileSync(own.user.path(name), `guest-move:${randomBytes(32).toString('hex')}\n`, { mode: 0o600 });
}

/** A machine as a plain VM object, whose properties a test can replace. */
function partsOf(machine: VirtualMachine): MigratableVm {
  return {
    memory: machine.memory,
    trackers: machine.trackers,
    devices: machine.devices,
    pause: () => machine.pause(),
    resume: () => machine.resume(),
    prepared: () => machine.prepared(),
  };
}

/** The counts of the heartbeats in a terminal. */
function beats(terminal: Terminal): readonly number[] {
  return [...terminal.text.matchAll(/heartbeat (\d+) /g)].map(([, count]) => Number(count));
}

/** Kills the VMM with that control socket. */
async function kill(control: string): Promise<void> {
  const { last } = await own.user.json('status', '--control', control);
  process.kill(Number(last['pid']), 'SIGKILL');
}

async function beatsOn(terminal: Terminal): Promise<void> {
  const before = beats(terminal).length;
  await terminal.until('more heartbeats', () => (beats(terminal).length >= before + 3 ? true : undefined));
}

describeInTerminals('two terminals, and a third one', () => {
  const tls = (side: string): readonly string[] => [
    ...['--tls-ca', own.user.path('ca.pem')],
    ...['--tls-cert', own.user.path(`${side}-cert.pem`)],
    ...['--tls-key', own.user.path(`${side}-key.pem`)],
  ];

  test.each([
    ['tcp', []],
    ['unix', []],
    ['tls', []],
    ['ws', ['--no-kvm']],
  ])('a guest moves over %s %p, is compared, and is checked', async (transport, kind) => {
    for (const [name, text] of Object.entries(certificates())) writeFileSync(own.user.path(name), text);
    const source = await running(...kind);
    const uri = {
      tcp: 'tcp:127.0.0.1:0',
      unix: `unix:${own.user.path('move.sock')}`,
      tls: 'tls:127.0.0.1:0',
      ws: 'ws://127.0.0.1:0/',
    }[transport] as string;
    const { terminal: destination, at } = await receiving(uri, ...(transport === 'tls' ? tls('destination') : []));
    const command = ['migrate', at, '--verify', ...(transport === 'tls' ? tls('source') : [])];
    const mover = own.tmux.open(own.user.line(command));
    expect(await mover.exit()).toBe(0);
    await mover.shows(/moved to .*down for .*\(predicted .*\), \d+ rounds, .*pages compared: equal/);
    expect(await source.exit()).toBe(0);
    await source.shows(/the guest has moved to/);
    await beatsOn(destination);
    // The guest's heartbeats go on where they were. The line during which it was paused is split over both terminals.
    const [last, first] = [beats(source).at(-1) as number, beats(destination)[0] as number];
    expect(first - last).toBeGreaterThanOrEqual(1);
    expect(first - last).toBeLessThanOrEqual(2);
    expect(await own.user.json('check')).toMatchObject({ status: 0, last: { defects: [] } });
    expect(await own.user.vmm('quit')).toMatchObject({ status: 0 });
    expect(await destination.exit()).toBe(0);
  });

  test('the guest moves on, from where it has moved to', async () => {
    const source = await running();
    const there = await receiving(`unix:${own.user.path('a.sock')}`);
    expect(await own.user.json('migrate', there.at, '--verify')).toMatchObject({
      status: 0,
      last: { result: 'moved', verified: true },
    });
    expect(await source.exit()).toBe(0);
    // A guest that its user has paused moves in that state.
    expect(await own.user.vmm('pause')).toMatchObject({ status: 0 });
    const further = await receiving(`unix:${own.user.path('b.sock')}`);
    const moved = await own.user.json('migrate', further.at, '--verify', '--no-live', '--encodings', 'lz4');
    expect(moved).toMatchObject({ status: 0, last: { result: 'moved', verified: true } });
    expect(await there.terminal.exit()).toBe(0);
    expect((await own.user.json('status')).last).toMatchObject({ guest: 'paused', incoming: { state: 'completed' } });
    expect(await own.user.vmm('resume')).toMatchObject({ status: 0 });
    await beatsOn(further.terminal);
    expect(await own.user.json('check')).toMatchObject({ status: 0, last: { defects: [] } });
  });

  test('over wss with a key that both have, through a command, and into standard input', async () => {
    const key = ['--tls-psk', own.user.path('key.psk')];
    writeKey('key.psk');
    const source = await running();
    const first = await receiving('wss://127.0.0.1:0/guest', ...key);
    expect(await own.user.json('migrate', first.at, ...key)).toMatchObject({ status: 0 });
    expect(await source.exit()).toBe(0);

    const second = await receiving(`unix:${own.user.path('second.sock')}`);
    const bridge = `require('net').connect(process.argv[1]).on('connect', function () { process.stdin.pipe(this).pipe(process.stdout) })`;
    const command = `exec:${process.execPath} -e "${bridge}" ${own.user.path('second.sock')}`;
    expect(await own.user.json('migrate', command)).toMatchObject({ status: 0 });
    expect(await first.terminal.exit()).toBe(0);

    // A VMM that is started for each connection, as inetd does.
    const server = net.createServer();
    server.listen(own.user.path('inetd.sock'));
    await once(server, 'listening');
    const started = once(server, 'connection').then(([socket]) => {
      const [program = '', ...args] = own.user.line(['receive', 'stdio:', '--control', own.user.path('third')]);
      const child = spawn(program, args, { stdio: ['pipe', 'pipe', 'ignore'] });
      (socket as net.Socket).pipe(child.stdin);
      child.stdout.pipe(socket as net.Socket);
      server.close();
      return once(child, 'exit');
    });
    expect(await own.user.json('migrate', `unix:${own.user.path('inetd.sock')}`, '--page-channels', '0')).toMatchObject(
      {
        status: 0,
      },
    );
    expect(await second.terminal.exit()).toBe(0);
    expect(await own.user.json('check', '--control', own.user.path('third'))).toMatchObject({
      status: 0,
      last: { defects: [] },
    });
    expect(await own.user.vmm('quit', '--control', own.user.path('third'))).toMatchObject({ status: 0 });
    expect(await started).toEqual([0, null]);
  });

  test('a guest of which the destination does not say whether it runs stands still until somebody decides', async () => {
    const source = await running();
    const links = await listenOn(unix({ path: own.user.path('strange.sock') }));
    let machine: VirtualMachine | undefined;
    // This destination has all of the guest, is told to run it, and fails to.
    const incoming = receive(links, {
      prepare: async (description) => {
        const { kind } = description as { kind: string };
        machine = await (kind === 'kvm' ? Machine : SoftwareMachine).fromDescription(description);
        return { ...partsOf(machine), resume: () => Promise.reject(new Error('it cannot run here')) };
      },
    });
    const move = ['migrate', `unix:${own.user.path('strange.sock')}`, '--settle-timeout', '1000'];
    const moved = await own.user.json(...move);
    expect(moved).toMatchObject({
      status: 8,
      last: { result: 'failed', code: 'GODWIT_OWNERSHIP_UNKNOWN', guest: 'unknown' },
    });
    expect(moved.stderr).toContain('recover --peer-is-dead');
    await expect(incoming.result).rejects.toMatchObject({ code: 'GODWIT_VM_FAILED' });
    expect((await own.user.json('status')).last).toMatchObject({
      guest: 'unknown',
      migration: { ownership: 'unknown' },
    });
    expect(await own.user.vmm('quit')).toMatchObject({ status: 5, stderr: expect.stringContaining('settle it first') });
    source.press('C-c');
    await source.shows(/which side has the guest is not settled/);
    expect(await own.user.vmm('settle')).toMatchObject({ status: 8 });
    expect(await own.user.vmm('recover')).toMatchObject({ status: 2 });
    expect(await own.user.vmm('recover', '--peer-is-dead')).toMatchObject({
      status: 0,
      stdout: 'the guest runs here\n',
    });
    await links.close();
    await machine?.close();
    await beatsOn(source);
    const { terminal: destination, at } = await receiving('tcp:127.0.0.1:0');
    expect(await own.user.json('migrate', at, '--verify')).toMatchObject({ status: 0, last: { verified: true } });
    await beatsOn(destination);
    expect(await own.user.json('check')).toMatchObject({ status: 0, last: { defects: [] } });
  });

  test('progress is one line, in place, and a third terminal sees, adjusts and cancels', async () => {
    const source = await running();
    const { terminal: destination, at } = await receiving('tcp:127.0.0.1:0');
    const slow = own.tmux.open(own.user.line(['migrate', at, '--bandwidth', '1M']), { columns: 70 });
    await slow.shows(/round 1: \d+ %, .*\/s, .* to go/);
    const lines = slow.screen;
    expect(lines.filter((line) => line.startsWith('round 1: '))).toHaveLength(1);
    expect(Math.max(...lines.map(({ length }) => length))).toBeLessThan(70);

    const status = await own.user.json('status', '--control', own.user.path('godwit/vmm1.sock'));
    expect(status.last).toMatchObject({
      guest: 'running',
      migration: { to: at, state: 'active', ownership: 'running', guest: 'here', progress: { round: 1 } },
    });
    const all = await own.user.vmm('status');
    expect(all.stdout).toMatch(/guest running, 96 MiB, .*moving to tcp:/);
    expect(all.stdout).toMatch(/a guest arrives at tcp:/);
    // A second migration is refused while the first goes on, and so is every command that would disturb the first.
    const { last: paused } = await own.user.json('pause', '--control', own.user.path('godwit/vmm1.sock'));
    expect(paused).toMatchObject({ exit: 5, code: 'GODWIT_INVALID_STATE' });
    expect(await own.user.json('migrate', at)).toMatchObject({
      status: 4,
      last: { code: 'GODWIT_CLAIMED', retry: true },
    });

    expect(await own.user.vmm('cancel', '--control', own.user.path('godwit/vmm1.sock'))).toMatchObject({
      status: 0,
      stdout: 'cancelled\n',
    });
    expect(await slow.exit()).toBe(7);
    await slow.shows(/GODWIT_CANCELLED[\s\S]*the guest stays at the source/);
    await beatsOn(source);
    await destination.shows(/another guest may come/);

    const again = own.tmux.open(own.user.line(['migrate', at, '--bandwidth', '1M', '--verify']));
    await again.shows(/round 1: \d+ %/);
    const control = ['--control', own.user.path('godwit/vmm1.sock')];
    expect(
      await own.user.vmm('adjust', ...control, '--bandwidth', '0', '--downtime-limit', '500', '--policy', 'urgent'),
    ).toMatchObject({ status: 0 });
    expect(await again.exit()).toBe(0);
    expect(await source.exit()).toBe(0);
    await beatsOn(destination);
  });

  test('by post-copy pages follow the guest, each terminal says so, and both VMMs stay until the last one has come', async () => {
    const source = await running();
    const { terminal: destination, at } = await receiving('tcp:127.0.0.1:0');
    const here = ['--control', own.user.path('godwit/vmm1.sock')];
    await own.user.vmm('pause', ...here);
    const mover = own.tmux.open(
      own.user.line(['migrate', at, '--bandwidth', '1M', '--postcopy', '--postcopy-bandwidth', '16K']),
    );
    await mover.shows(/round 1: \d+ %/);
    expect(await own.user.vmm('postcopy', ...here)).toMatchObject({ status: 0, stdout: 'asked for\n' });
    await mover.shows(/the guest runs there; \d+ % of its missing pages sent/);
    await destination.shows(/[\d,]+ of [\d,]+ pages missing, 0 faults/);
    expect((await own.user.json('status', ...here)).last).toMatchObject({
      guest: 'moved',
      migration: { to: at, state: 'postcopy-active', ownership: 'handedOver' },
    });
    expect((await own.user.json('status', '--control', own.user.path('godwit/vmm2.sock'))).last).toMatchObject({
      guest: 'paused',
      incoming: { state: 'postcopy-active', faults: { pagesLost: 0 } },
    });
    expect(await own.user.vmm('quit', ...here)).toMatchObject({
      status: 5,
      stderr: expect.stringContaining('only here'),
    });
    expect(await own.user.vmm('adjust', ...here, '--postcopy-bandwidth', '0')).toMatchObject({ status: 0 });
    expect(await mover.exit()).toBe(0);
    await mover.shows(/moved to .*; [\d,]+ pages followed in/);
    expect(await source.exit()).toBe(0);
    await destination.shows(/the guest is here, paused: [\d,]+ pages, 0 of which it waited for/);
    expect(await own.user.vmm('resume')).toMatchObject({ status: 0 });
    await beatsOn(destination);
    expect(await own.user.json('check')).toMatchObject({ status: 0, last: { defects: [] } });
  });

  test('Ctrl-C cancels a migration, and ends a VMM, also behind npm', async () => {
    const npm = ['env', `XDG_RUNTIME_DIR=${own.user.folder}`, 'npm', 'run', '--silent', 'vmm', '--'];
    const source = own.tmux.open([...npm, 'run', ...GUEST]);
    await source.shows(/heartbeat 000001/);
    const { terminal: destination, at } = await receiving('tcp:127.0.0.1:0');
    const mover = own.tmux.open([...npm, 'migrate', at, '--bandwidth', '1M']);
    await mover.shows(/round 1: \d+ %/);
    mover.press('C-c');
    expect(await mover.exit()).toBe(7);
    await beatsOn(source);
    for (const terminal of [source, destination]) {
      terminal.press('C-c');
      expect(await terminal.exit()).toBe(0);
      await terminal.shows(/ended by SIGINT/);
    }
  });

  test('a VMM that was killed is said to be gone, and its socket is taken over by the next one', async () => {
    const source = await running();
    const { at } = await receiving('tcp:127.0.0.1:0');
    const mover = own.tmux.open(own.user.line(['migrate', at, '--bandwidth', '1M', '--reconnect-timeout', '1000']));
    await mover.shows(/round 1: \d+ %/);
    await kill(own.user.path('godwit/vmm2.sock'));
    expect(await mover.exit()).toBe(4);
    await mover.shows(/the link is lost[\s\S]*the guest stays at the source/);
    await beatsOn(source);
    expect((await own.user.vmm('status')).stdout.match(/vmm\d\.sock/g)).toEqual(['vmm1.sock']);
    const next = await receiving('tcp:127.0.0.1:0');
    await next.terminal.shows(/control socket: \S+\/vmm2\.sock/);
    const pending = own.user.json('migrate', next.at, '--bandwidth', '1M');
    await source.shows(new RegExp(`being moved to ${next.at}`));
    await kill(own.user.path('godwit/vmm1.sock'));
    expect(await pending).toMatchObject({ status: 3, last: { result: 'failed', code: 'GODWIT_LINK_LOST' } });
  });

  test('a guest is saved and goes on, and is restored, whole or at once', async () => {
    const source = await running();
    const file = own.user.path('guest.snap');
    const saver = own.tmux.open(own.user.line(['snapshot', file]));
    expect(await saver.exit()).toBe(0);
    await saver.shows(/saved to .*guest\.snap/);
    await beatsOn(source);
    expect(await own.user.json('check')).toMatchObject({ status: 0, last: { defects: [] } });
    expect(await own.user.json('snapshot', file, '--live')).toMatchObject({
      status: 0,
      last: { result: 'saved', background: { protection: { pagesLeft: 0 } } },
    });
    await beatsOn(source);
    expect(await own.user.json('check')).toMatchObject({ status: 0, last: { defects: [] } });
    expect(await own.user.vmm('snapshot', file, '--live', '--quit')).toMatchObject({
      status: 2,
      stderr: expect.stringContaining('take one of the two'),
    });
    expect(await own.user.json('snapshot', file, '--quit')).toMatchObject({ status: 0, last: { result: 'saved' } });
    expect(await source.exit()).toBe(0);
    for (const how of [[], ['--at-once']]) {
      const restored = own.tmux.open(own.user.line(['restore', file, ...how]));
      await restored.shows(/the guest is here, running/);
      await beatsOn(restored);
      expect(await own.user.json('check')).toMatchObject({ status: 0, last: { defects: [] } });
      expect(await own.user.vmm('quit')).toMatchObject({ status: 0 });
      expect(await restored.exit()).toBe(0);
    }
    writeFileSync(file, 'no snapshot');
    expect(await own.user.vmm('restore', file)).toMatchObject({
      status: 5,
      stderr: expect.stringContaining('error: GODWIT_'),
    });
  });
});

describe('the exit status', () => {
  test.each([
    [2, ['migrat'], /unknown command 'migrat'[\s\S]*Did you mean migrate\?/],
    [2, ['migrate', 'tcp:127.0.0.1:1', '--downtimelimit', '3'], /Did you mean --downtime-limit\?/],
    [2, ['run', '--memory', 'much'], /It is a size such as 150M/],
    [2, ['run', '--memory', '64M', '--working-set', '64M'], /--working-set does not fit/],
    [2, ['receive', 'tpc:127.0.0.1:1'], /starts with none of tcp:, tls:, unix:/],
    [2, ['receive', 'exec:true'], /exec starts a command and cannot listen/],
    [2, ['receive', 'tls:127.0.0.1:0'], /TLS needs ca, cert and key/],
    [2, ['receive', 'tcp:127.0.0.1:0', '--tls-ca', 'x'], /for tls: and wss:/],
    [3, ['migrate', 'tcp:127.0.0.1:1'], /no VMM with a guest is found/],
    [3, ['quit', '--control', '/nonexistent/vmm.sock'], /no VMM answers at \/nonexistent\/vmm.sock/],
    [5, ['receive', 'unix:/nonexistent/move.sock'], /there is no folder/],
  ])('is %d for %p', async (status, args, told) => {
    const ran = await own.user.vmm(...args);
    expect({ status: ran.status, stderr: ran.stderr }).toEqual({ status, stderr: expect.stringMatching(told) });
    expect(ran.stderr).not.toContain('    at ');
  });

  describeInTerminals('of a migration', () => {
    test('is 4 without a destination, 2 for no address, 5 for another key, 6 for a guest that writes too fast', async () => {
      const source = await running('--dirty-rate', '0');
      expect(await own.user.json('migrate', 'tcp:127.0.0.1:1', '--connect-timeout', '500')).toMatchObject({
        status: 4,
        last: { result: 'failed', exit: 4, code: 'GODWIT_CONNECT_FAILED', retry: true, guest: 'here' },
      });
      expect(await own.user.json('migrate', '127.0.0.1:1')).toMatchObject({
        status: 2,
        last: { result: 'failed', exit: 2, code: 'GODWIT_INVALID_ARGUMENT' },
      });
      for (const name of ['own.psk', 'other.psk']) writeKey(name);
      const secret = await receiving('tls:127.0.0.1:0', '--tls-psk', own.user.path('own.psk'));
      expect(await own.user.json('migrate', secret.at, '--tls-psk', own.user.path('other.psk'))).toMatchObject({
        status: 5,
        last: { exit: 5, code: 'GODWIT_CONNECT_FAILED', retry: false, guest: 'here' },
      });
      await secret.terminal.shows(/refused: .*it has another pre-shared key/);
      const { at } = await receiving('tcp:127.0.0.1:0');
      const limits = ['--bandwidth', '16M', '--policy', 'gentle', '--time-budget', '4000', '--downtime-limit', '20'];
      expect(await own.user.json('migrate', at, ...limits)).toMatchObject({
        status: 6,
        last: { result: 'failed', exit: 6, code: 'GODWIT_NOT_CONVERGING', guest: 'here' },
      });
      await beatsOn(source);
    });
  });
});
