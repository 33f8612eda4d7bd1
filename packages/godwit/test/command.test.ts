import { spawn } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, jest, test } from '@jest/globals';
import { COMMAND, godwit } from './godwit-command.js';
import { FAULTLESS, GOES_BACK, hello, record, type Step } from './scripted-recording.js';

jest.setTimeout(60_000);

let folder: string;
let path: string;
let bytes: Uint8Array;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'godwit-command-'));
  path = join(folder, 'whole.godwit');
  await record(path, FAULTLESS);
  bytes = readFileSync(path);
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe('godwit inspect', () => {
  test('prints a recording for a person', async () => {
    const { status, stdout, stderr } = await godwit(['inspect', path]);
    expect([status, stderr]).toEqual([0, '']);
    const text = stdout.replaceAll(/ +/g, ' ');
    expect(text).toMatch(/^ 0 recording 20\d\d-.*, by godwit\//);
    expect(text).toContain('link 0: test, recorded at the source');
    expect(text).toContain('hello migration 00112233445566778899aabbccddeeff, connection 1 (running)');
    expect(text).toContain('block ram: 256 KiB at 0x0');
    expect(text).toContain('description: {"name":"vm1"}');
    expect(text).toMatch(/round 1: 53 pages \(3 raw, 50 zero\), 12.0 KiB in 2 frames, [\d.]+ ms, acknowledged\n/);
    expect(text).toContain('device serial: 123 B in 2 pieces');
    expect(text).toContain('go source, link 0, control: {"attempt":1}\n');
    expect(text).toMatch(/attempt 1: go after [\d.]+ ms, 23 B of device state\n/);
    expect(text).toContain('attempts 1, none given up\n');
    expect(text).toContain('outcome the guest runs at the destination\n file whole\n');
  });

  test('prints what a migration has given up, and what it was asked', async () => {
    const back = join(folder, 'back.godwit');
    await record(back, GOES_BACK);
    const { status, stdout, stderr } = await godwit(['inspect', back]);
    expect([status, stderr]).toEqual([0, '']);
    const text = stdout.replaceAll(/ +/g, ' ');
    expect(text).toMatch(/prepare 2 \(\d+ B\), prepared 2 /);
    expect(text).toMatch(/back source, link 0, control: attempt 1 is given up, pre-copy goes on\n/);
    expect(text).toContain('device serial: 124 B in 3 pieces, for attempt 2\n');
    expect(text).toMatch(/attempt 1: given up after [\d.]+ ms, 23 B of device state\n/);
    expect(text).toMatch(/attempt 2: go after [\d.]+ ms, 24 B of device state\n/);
    expect(text).toContain('attempts 2, 1 given up\n outcome the guest is at the destination, paused as it was\n');
    const { stdout: json } = await godwit(['inspect', '--json', back]);
    expect(JSON.parse(json.trimEnd().split('\n').at(-1) as string)).toMatchObject({ attempts: 2, wentBack: 1 });
  });

  test('reads standard input, and prints JSON lines', async () => {
    const { status, stdout } = await godwit(['inspect', '--json', '-'], bytes);
    expect(status).toBe(0);
    const findings = stdout
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line));
    expect(findings.at(-1)).toMatchObject({ event: 'summary', whole: true, pages: { raw: 4, zero: 50 } });
    expect(findings.map(({ event }) => event).slice(0, 3)).toEqual(['recording', 'link', 'message']);
  });

  test('names every frame on demand', async () => {
    const { stdout } = await godwit(['inspect', '--frames', path]);
    expect(stdout).toMatch(
      /^ +\d+ +[\d.]+ s {2}pages +source, link 0, channel 0: 12.0 KiB: \{"round":1,"block":0,"runs":\[0,2,5,1\]\}$/m,
    );
  });

  test('says on standard error what is wrong with a torn file, and prints what is there', async () => {
    const { status, stdout, stderr } = await godwit(['inspect', '-'], bytes.subarray(0, bytes.length - 1));
    expect(status).toBe(1);
    expect(stdout).toContain('the guest runs at the destination');
    expect(stdout).toMatch(/BROKEN +GODWIT_LINK_LOST: it ends at byte/);
    expect(stderr).toMatch(/^godwit: standard input is not whole: at byte \d+: it ends at byte \d+, inside the frame/);
  });

  test('tells the first violation', async () => {
    const wrong = join(folder, 'wrong.godwit');
    const step: Step = ['S', 1, { type: 'roundEnd', round: 1, pages: 4 }];
    await record(
      wrong,
      FAULTLESS.map((one, i) => (i === 4 ? step : one)),
    );
    const { status, stdout, stderr } = await godwit(['inspect', wrong]);
    expect(status).toBe(1);
    expect(stderr).toMatch(/wrong.godwit is not whole: at byte \d+: the end of round 1 on stream 1 says 4 pages/);
    expect(stdout).toMatch(/file +NOT whole: 1 violation of the protocol\n$/);
  });

  test.each([
    ['nothing', ''],
    ['zeros', '00'.repeat(100)],
    ['a length of 4 GiB', 'ceffffffff90'],
    ['a payload of 4 GiB that is not there', 'ce0000000694050100920001c6ffffffff00'],
    ['text', Buffer.from('<html>').toString('hex')],
  ])('refuses %s', async (_name, hex) => {
    const { status, stdout, stderr } = await godwit(['inspect', '-'], Buffer.from(hex, 'hex'));
    expect(status).toBe(1);
    expect(stderr).toMatch(/^godwit: standard input is not whole: at byte 0: .+\n$/);
    expect(stdout).toContain('NOT whole');
  });

  test('keeps what a hostile file says away from the terminal', async () => {
    const hostile = join(folder, 'hostile.godwit');
    const evil = 'vm\u001b]0;owned\u0007\u009b2J\u202e\nend';
    await record(hostile, [
      [
        'S',
        0,
        hello({
          software: evil,
          blocks: [{ id: evil, guestPhysicalAddress: 0, byteLength: 4096, identity: '' }],
          description: { [evil]: evil },
        }),
      ],
      ['D', 0, { type: 'error', code: 'GODWIT_X', message: evil, retry: false }],
    ]);
    for (const options of [[], ['--json'], ['--frames']]) {
      const { stdout, stderr } = await godwit(['inspect', ...options, hostile]);
      expect(stdout).toContain('owned');
      expect((stdout + stderr).replaceAll('\n', '')).not.toMatch(/[\p{Cc}\p{Cf}]/u);
    }
    const { stdout } = await godwit(['inspect', '--json', hostile]);
    const message = JSON.parse(stdout.split('\n')[2] ?? '');
    expect(message.frame.software).toBe(evil);
  });

  test.each([
    ['a file that is not there', ['inspect', join(tmpdir(), 'no-such-recording')], 'cannot be read: ENOENT'],
    ['a folder', ['inspect', tmpdir()], 'cannot be read: EISDIR'],
    ['no command', [], 'a command is missing'],
    ['another command', ['dissect', 'x'], 'there is no command "dissect"\n'],
    ['a command by a name that every object has', ['constructor'], 'there is no command "constructor"\n'],
    ['an option by such a name', ['inspect', '--constructor', 'a'], 'godwit inspect has no option --constructor\n'],
    ['a misspelt command', ['inpsect', 'x'], 'there is no command "inpsect"; did you mean godwit inspect?'],
    ['half a command', ['sim'], 'did you mean godwit simulate?'],
    ['a misspelt option', ['inspect', '--jsn', 'a'], 'godwit inspect has no option --jsn; did you mean --json?'],
    ['a misspelt option of another command', ['simulate', '--dirtyrate', '1G'], 'did you mean --dirty-rate?'],
    ['a misspelt option without a command', ['--verison'], 'godwit has no option --verison; did you mean --version?'],
    ['an option that wants a value', ['simulate', '--memory'], "Option '--memory <value>' argument missing"],
    ['standard input that is followed', ['inspect', '--follow', '-'], 'leave --follow out'],
    ['no shell', ['completion'], 'completion needs a shell: bash, zsh, fish'],
    ['a misspelt shell', ['completion', 'fsih'], 'completion needs a shell: bash, zsh, fish; did you mean "fish"?'],
    ['another shell', ['completion', 'csh'], 'completion needs a shell'],
    ['no file', ['inspect'], 'inspect needs a FILE'],
    ['two files', ['inspect', 'a', 'b'], 'inspect reads one FILE, got also "b"'],
    ['an unknown option', ['inspect', '--quick', 'a'], 'godwit inspect has no option --quick\n'],
  ])('ends with status 2 for %s', async (_name, args, says) => {
    const { status, stdout, stderr } = await godwit(args);
    expect([status, stdout]).toEqual([2, '']);
    expect(stderr).toContain(says);
  });

  test('ends quietly when nobody reads on', async () => {
    const many = join(folder, 'many.godwit');
    await record(many, [FAULTLESS[0] as Step, ...new Array<Step>(5000).fill(['S', 0, { type: 'ping', id: 1 }])]);
    const child = spawn(process.execPath, [COMMAND, 'inspect', '--frames', many], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let stderr = '';
    child.stderr.on('data', (text) => {
      stderr += text;
    });
    child.stdout.once('data', () => child.stdout.destroy());
    const status = await new Promise((resolve) => child.on('close', resolve));
    expect([status, stderr]).toEqual([141, '']);
  });
});

test('godwit --help and --version', async () => {
  expect(await godwit(['--help'])).toMatchObject({
    status: 0,
    stdout: expect.stringContaining('Usage: godwit inspect'),
  });
  const { version } = JSON.parse(readFileSync(join(import.meta.dirname, '..', 'package.json'), 'utf8'));
  expect(await godwit(['--version'])).toMatchObject({ status: 0, stdout: `${version}\n` });
});

test('a file as standard input is read like a pipe', async () => {
  const file = join(folder, 'as-input.godwit');
  writeFileSync(file, bytes);
  const fd = openSync(file, 'r');
  const child = spawn(process.execPath, [COMMAND, 'inspect', '-'], { stdio: [fd, 'ignore', 'inherit'] });
  const status = await new Promise((resolve) => child.on('close', resolve));
  closeSync(fd);
  expect(status).toBe(0);
});
