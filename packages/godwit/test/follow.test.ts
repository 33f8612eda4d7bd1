import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { appendFileSync, mkdtempSync, readFileSync, renameSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, jest, test } from '@jest/globals';
import { COMMAND } from './godwit-command.js';
import { FAULTLESS, record } from './scripted-recording.js';

jest.setTimeout(120_000);

let folder: string;
let path: string;
let bytes: Buffer;
let child: ChildProcess;
let stdout: string;
let stderr: string;

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'godwit-follow-'));
  const whole = join(folder, 'whole.godwit');
  await record(whole, FAULTLESS);
  bytes = readFileSync(whole);
  path = join(folder, 'growing.godwit');
});

afterEach(() => {
  child.kill('SIGKILL');
  rmSync(folder, { recursive: true, force: true });
});

function follow(...options: string[]): void {
  stdout = '';
  stderr = '';
  child = spawn(process.execPath, [COMMAND, 'inspect', '--follow', ...options, path], { stdio: 'pipe' });
  child.stdout?.setEncoding('utf8').on('data', (text) => {
    stdout += text;
  });
  child.stderr?.setEncoding('utf8').on('data', (text) => {
    stderr += text;
  });
}

/** Resolves once the command has printed something like this. */
async function printed(pattern: RegExp): Promise<void> {
  while (!pattern.test(stdout)) await once(child.stdout as NonNullable<ChildProcess['stdout']>, 'data');
}

async function status(): Promise<number | null> {
  const [code] = (await once(child, 'close')) as [number | null];
  return code;
}

/** The first byte behind the frames of round 1. */
function endOfRoundOne(): number {
  // A header of `roundAck`, round 1, 53 pages: an array of 3, and its numbers.
  const at = bytes.indexOf(Buffer.from([0x93, 8, 1, 53]));
  expect(at).toBeGreaterThan(0);
  return at + 4;
}

describe('godwit inspect --follow', () => {
  test('prints what is there, waits, and ends with the recording', async () => {
    const cut = endOfRoundOne();
    writeFileSync(path, bytes.subarray(0, cut));
    follow();
    await printed(/round +1: 53 pages/);
    expect(stdout).not.toContain('outcome');
    // A frame may be written in parts.
    for (let at = cut; at < bytes.length; at += 40) appendFileSync(path, bytes.subarray(at, at + 40));
    expect(await status()).toBe(0);
    expect(stderr).toBe('');
    expect(stdout).toContain('the guest runs at the destination');
    expect(stdout.replaceAll(/ +/g, ' ')).toContain('file whole');
  });

  test('waits for a file that is not there yet', async () => {
    follow('--json');
    writeFileSync(`${path}.new`, bytes);
    renameSync(`${path}.new`, path);
    expect(await status()).toBe(0);
    expect(JSON.parse(stdout.trimEnd().split('\n').at(-1) as string)).toMatchObject({ event: 'summary', whole: true });
  });

  test('Ctrl-C adds up what there is', async () => {
    writeFileSync(path, bytes.subarray(0, endOfRoundOne()));
    follow();
    await printed(/round +1: 53 pages/);
    child.kill('SIGINT');
    expect(await status()).toBe(1);
    expect(stdout).toMatch(/pages +3 raw, 50 zero/);
    expect(stderr).toContain('is not whole');
  });

  test.each([
    ['is cut', () => truncateSync(path, 10), /it was cut to 10 bytes/],
    [
      'is replaced',
      () => {
        writeFileSync(`${path}.new`, bytes);
        renameSync(`${path}.new`, path);
      },
      /another file has its name now/,
    ],
  ])('a file that %s is told', async (_what, spoil, says) => {
    writeFileSync(path, bytes.subarray(0, endOfRoundOne()));
    follow();
    await printed(/round +1: 53 pages/);
    spoil();
    expect(await status()).toBe(2);
    expect(stderr).toMatch(says);
  });
});
