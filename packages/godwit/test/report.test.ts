import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { MigrationModel } from '@godwit/observe';
import { afterAll, beforeAll, describe, expect, jest, test } from '@jest/globals';
import { reportRecording } from 'godwit/observe';
import { godwit } from './godwit-command.js';
import { once, RESUMED, RecordingFolder } from './recording-folder.js';
import { POSTCOPY, RECONNECTED, UP_TO_RUNNING } from './scripted-postcopy.js';
import { FAULTLESS, GOES_BACK, hello, PAGE, type Step } from './scripted-recording.js';

jest.setTimeout(60_000);

const folder = new RecordingFolder();
let own: string;
beforeAll(() => {
  own = mkdtempSync(join(tmpdir(), 'godwit-report-'));
});
afterAll(() => rmSync(own, { recursive: true, force: true }));

/** The data inside a report. */
function modelIn(html: string): MigrationModel {
  const [, data = ''] = /<script type="application\/json" id="model">(.*?)<\/script>/s.exec(html) ?? [];
  return JSON.parse(data) as MigrationModel;
}

/** The states of the source, in their order. */
function statesOf({ source }: MigrationModel): string[] {
  return (source?.states.path ?? []).map(({ state }) => state);
}

async function modelOf(steps: readonly Step[]): Promise<MigrationModel> {
  const bytes = readFileSync(await folder.record(steps));
  return modelIn((await reportRecording(once(bytes))).html);
}

describe('the report of a recording', () => {
  test('has the rounds, the states and the end of the migration', async () => {
    const model = await modelOf(FAULTLESS);
    expect(model).toMatchObject({
      format: 'godwit-migration/1',
      origin: 'recording',
      over: true,
      guest: 'destination',
    });
    expect(model.source).toMatchObject({
      id: '00112233445566778899aabbccddeeff',
      ownership: 'released',
      attempt: 1,
      pageSize: PAGE,
      progress: { pages: { raw: 4, zero: 50, delta: 0, compressed: 0 }, rawBytes: 54 * PAGE, deviceBytes: 123 },
      error: null,
    });
    expect(model.source?.states.path.map(({ state }) => state)).toEqual([
      ...['none', 'setup', 'active', 'device', 'completed'],
    ]);
    expect(model.rounds.kept.map(({ round, phase, dirtyPages }) => [round, phase, dirtyPages])).toEqual([
      [1, 'pre-copy', 53],
      [2, 'stop-and-copy', 1],
    ]);
    expect(model.rounds.count).toBe(2);
    expect(model.log.entries.map(({ text }) => text)).toEqual(expect.arrayContaining(['switchover', 'go', 'running']));
    // Of a stream of the source's, all bytes are counted, and none of the answers.
    expect(model.source?.progress.wireBytes).toBeGreaterThan(4 * PAGE + 123);
  });

  test('has what was given up, and where the guest was then', async () => {
    const model = await modelOf(GOES_BACK);
    expect(model.source?.states.path.map(({ state }) => state)).toEqual([
      ...['none', 'setup', 'active', 'device', 'active', 'device', 'completed'],
    ]);
    expect(model.source?.attempt).toBe(2);
    expect(model.log.entries.map(({ text }) => text)).toContainEqual(expect.stringMatching(/^attempt 1: given up/));
  });

  test('has the error of one that failed, and leaves the guest at the source', async () => {
    const message = '</script><b>no such register</b>';
    const error: Step = ['D', 0, { type: 'error', code: 'GODWIT_DEVICE_FAILED', message, retry: false }];
    const model = await modelOf([...FAULTLESS.slice(0, 7), error]);
    expect(model).toMatchObject({
      guest: 'source',
      source: { states: { state: 'failed' }, ownership: 'kept', error: { code: 'GODWIT_DEVICE_FAILED', message } },
      destination: { ownership: 'abandoned' },
    });
  });

  test('of one whose answer to go came over another connection has its end', async () => {
    const asked: Step = ['S', 0, hello({ stage: 'handedOver', connection: 2 })];
    const answered: Step = ['D', 0, { ...RESUMED, state: 'running', round: 0 }];
    const model = await modelOf([...FAULTLESS.slice(0, -1), asked, answered, ['S', 0, { type: 'released' }]]);
    expect(model).toMatchObject({ guest: 'destination', destination: { ownership: 'settled' } });
    expect(statesOf(model)).toEqual(['none', 'setup', 'active', 'device', 'completed']);
  });

  test('of one whose link was lost in the pause has the attempt that was given up', async () => {
    const again: Step = ['S', 0, hello({ connection: 2, attempt: 2 })];
    const model = await modelOf([...FAULTLESS.slice(0, 14), again]);
    expect(model).toMatchObject({ guest: 'source', source: { ownership: 'running' } });
    expect(statesOf(model)).toEqual(['none', 'setup', 'active', 'device', 'active']);
  });

  test('by post-copy has the guest at the destination while pages are missing, and its end when all have come', async () => {
    const model = await modelOf(POSTCOPY);
    expect(model).toMatchObject({ guest: 'destination', source: { ownership: 'released' } });
    expect(statesOf(model)).toEqual(['none', 'setup', 'active', 'postcopy-device', 'postcopy-active', 'completed']);
    // Of 26 pages in rounds, 3 were zero, and 5 more came because the guest waited for them or for their neighbours.
    expect(model.source?.progress.pages).toMatchObject({ raw: 23 + 5, zero: 3 });
    expect(model.rounds.kept.map(({ round, phase }) => [round, phase])).toEqual([
      [1, 'pre-copy'],
      [2, 'post-copy'],
    ]);
    const log = model.log.entries.map(({ text }) => text);
    expect(log).toContain('the guest has waited for 3 pages, in 3 requests');
    expect(log).toContain('whole');

    const broken = await modelOf(UP_TO_RUNNING);
    expect(broken).toMatchObject({ guest: 'destination', source: { ownership: 'handedOver' } });
    expect(statesOf(broken).at(-1)).toBe('postcopy-active');
  });

  test('by post-copy over two connections has the way back to the destination', async () => {
    expect(statesOf(await modelOf(RECONNECTED))).toEqual([
      ...['none', 'setup', 'active', 'postcopy-device', 'postcopy-active', 'postcopy-recover'],
      ...['postcopy-active', 'completed'],
    ]);
  });

  test('of one that breaks off after go says that nobody knows', async () => {
    expect(await modelOf(FAULTLESS.slice(0, -1))).toMatchObject({
      guest: 'between',
      source: { ownership: 'handedOver' },
    });
  });
});

test('an option that does not exist is refused, before anything is read', async () => {
  await expect(reportRecording(once(new Uint8Array()), { titel: 'x' } as never)).rejects.toMatchObject({
    code: 'GODWIT_INVALID_ARGUMENT',
    message: 'reportRecording has no option "titel"; did you mean "title"?',
  });
});

describe('godwit report', () => {
  test('writes to the standard output, or to a file', async () => {
    const path = await folder.record(FAULTLESS);
    const { status, stdout, stderr } = await godwit(['report', path]);
    expect([status, stderr]).toEqual([0, '']);
    expect(modelIn(stdout)).toMatchObject({ title: path.split('/').at(-1), guest: 'destination' });
    const output = join(own, 'page.html');
    expect(await godwit(['report', '--output', output, path])).toEqual({ status: 0, stdout: '', stderr: '' });
    expect(readFileSync(output, 'utf8')).toBe(stdout);
    const { stdout: piped } = await godwit(['report', '-'], readFileSync(path));
    expect(modelIn(piped)).toMatchObject({ title: 'A recorded migration', guest: 'destination' });
  });

  test('of a torn file shows what is there, and says so', async () => {
    const bytes = readFileSync(await folder.record(FAULTLESS));
    const torn = join(own, 'torn.godwit');
    writeFileSync(torn, bytes.subarray(0, bytes.length / 2));
    const { status, stdout, stderr } = await godwit(['report', torn]);
    expect(status).toBe(1);
    expect(stderr).toContain('torn.godwit is not whole: at byte');
    expect(modelIn(stdout).log.entries.map(({ text }) => text)).toContainEqual(
      expect.stringContaining('the file ends'),
    );
  });

  test.each([
    [['report'], 'report needs a RECORDING'],
    [['report', 'a', 'b'], 'report reads one RECORDING'],
    [['report', '--json', 'a'], 'godwit report has no option --json'],
    [['inspect', '--output', 'a', 'b'], 'godwit inspect has no option --output'],
    [['report', '/nonexistent/file'], 'no report of /nonexistent/file: ENOENT'],
  ])('%j is refused', async (args, message) => {
    const { status, stdout, stderr } = await godwit(args);
    expect([status, stdout]).toEqual([2, '']);
    expect(stderr).toContain(message);
  });
});
