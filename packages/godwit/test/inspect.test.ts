import { createReadStream } from 'node:fs';
import { describe, expect, jest, test } from '@jest/globals';
import { findingsIn, once, only, RESUMED, RecordingFolder, summaryOf } from './recording-folder.js';
import { bareStream, FAULTLESS, hello, PAGE, type Step, WELCOME } from './scripted-recording.js';

jest.setTimeout(60_000);

const folder = new RecordingFolder();
const findingsOf = (steps: readonly Step[], frames = false) => folder.findingsOf(steps, frames);

describe('a recording without a fault', () => {
  test('is told in rounds, devices and messages', async () => {
    const findings = await findingsOf(FAULTLESS);
    expect(findings.map(({ event }) => event)).toEqual([
      ...['recording', 'link', 'message', 'message', 'round', 'round', 'device'],
      ...['message', 'message', 'message', 'attempt', 'message', 'summary'],
    ]);
    expect(only(findings, 'round')).toMatchObject([
      { link: 0, round: 1, pages: { raw: 3, zero: 50 }, frames: 2, acknowledged: 53 },
      { link: 0, round: 2, pages: { raw: 1, zero: 0 }, frames: 1, acknowledged: 1 },
    ]);
    expect(only(findings, 'device')).toEqual([
      { event: 'device', link: 0, id: 'serial', attempt: 1, pieces: 2, bytes: 123 },
    ]);
    expect(only(findings, 'attempt')).toEqual([
      { event: 'attempt', link: 0, attempt: 1, end: 'go', durationMs: expect.any(Number), deviceBytes: 23 },
    ]);
    expect(summaryOf(findings)).toMatchObject({
      whole: true,
      violations: 0,
      pages: { raw: 4, zero: 50 },
      attempts: 1,
      wentBack: 0,
      outcome: { type: 'running', runState: 'running' },
      frames: { pages: { count: 2 }, roundEnd: { count: 4 }, device: { count: 2 } },
    });
  });

  test('names every frame on demand, each with its place', async () => {
    const path = await folder.record(FAULTLESS);
    const frames = only(await findingsIn(createReadStream(path), true), 'frame');
    expect(frames.map(({ frame }) => frame.type)).toEqual(FAULTLESS.map(([, , frame]) => frame.type));
    const summary = summaryOf(await findingsIn(createReadStream(path), true));
    expect(frames.reduce((sum, { byteLength }) => sum + byteLength, 0)).toBe(summary.bytes);
    for (const { offset, byteLength, payloadBytes } of frames) {
      const bytes = Buffer.concat(
        await createReadStream(path, { start: offset, end: offset + byteLength - 1 }).toArray(),
      );
      const headerBytes = bytes.readUInt32BE(1);
      expect([bytes[0], headerBytes + 5 + (payloadBytes > 0 ? payloadBytes + 5 : 0)]).toEqual([0xce, byteLength]);
    }
  });

  test('has other outcomes too', async () => {
    const outcome = async (steps: readonly Step[]) => summaryOf(await findingsOf(steps)).outcome;
    expect(await outcome(FAULTLESS.slice(0, -1))).toEqual({ type: 'handed over' });
    expect(await outcome(FAULTLESS.slice(0, -2))).toEqual({ type: 'unfinished' });
    const error: Step = [
      'D',
      0,
      { type: 'error', code: 'GODWIT_DEVICE_FAILED', message: 'no such register', retry: false },
    ];
    expect(await outcome([...FAULTLESS.slice(0, 7), error])).toEqual({
      type: 'failed',
      by: 'destination',
      code: 'GODWIT_DEVICE_FAILED',
      message: 'no such register',
    });
  });

  test('of a migration over two connections goes on at the round and the piece that the destination names', async () => {
    const findings = await findingsOf([
      ...FAULTLESS.slice(0, 8),
      ['S', 0, { type: 'device', device: 0, sequence: 0, last: false, attempt: 0 }, 100],
      ['S', 0, hello({ connection: 2 })],
      ['D', 0, { type: 'received', block: 0, runs: [63, 1] }],
      ['D', 0, { ...RESUMED, round: 2 }],
      ['S', 1, { type: 'roundEnd', round: 2, pages: 0 }],
      ['S', 2, { type: 'roundEnd', round: 2, pages: 0 }],
      ['D', 0, { type: 'roundAck', round: 2, pages: 0 }],
      ['S', 0, { type: 'device', device: 0, sequence: 1, last: false, attempt: 0 }, 10],
      ...FAULTLESS.slice(12),
    ]);
    expect(only(findings, 'violation')).toEqual([]);
    expect(only(findings, 'link').map(({ link }) => link)).toEqual([0, 1]);
    expect(only(findings, 'round').map(({ link, round, acknowledged }) => [link, round, acknowledged])).toEqual([
      [0, 1, 53],
      [1, 2, 0],
      [0, 2, undefined],
    ]);
    expect(summaryOf(findings)).toMatchObject({ whole: true, outcome: { type: 'running' } });
  });
});

describe('other files', () => {
  test('a bare control stream that carries the pages is added up by its rounds', async () => {
    const bytes = await bareStream([
      [hello({ pageChannels: 0 })],
      [{ type: 'pages', round: 1, block: 0, runs: [0, 2] }, 2 * PAGE],
      [{ type: 'roundEnd', round: 1, pages: 2 }],
      [{ type: 'zeroPages', round: 2, block: 0, runs: [0, 2] }],
      [{ type: 'roundEnd', round: 2, pages: 2 }],
      [{ type: 'switchover', round: 2, attempt: 1, runState: 'running' }],
      [{ type: 'go', attempt: 1 }],
    ]);
    const findings = await findingsIn(once(bytes));
    expect(only(findings, 'round')).toMatchObject([
      { round: 1, pages: { raw: 2, zero: 0 }, acknowledged: undefined },
      { round: 2, pages: { raw: 0, zero: 2 }, acknowledged: undefined },
    ]);
    expect(summaryOf(findings)).toMatchObject({ whole: true, outcome: { type: 'handed over' } });
  });

  test('a bare page channel and the answers of a destination are read without a hello', async () => {
    const channel = await bareStream([
      [{ type: 'attach', migrationId: hello().migrationId, index: 1, connection: 1 }],
      [{ type: 'pages', round: 1, block: 5, runs: [1000, 1] }, 65536],
      [{ type: 'roundEnd', round: 1, pages: 1 }],
    ]);
    expect(summaryOf(await findingsIn(once(channel)))).toMatchObject({ whole: true, pages: { raw: 1, zero: 0 } });
    const answers = await bareStream([
      [WELCOME],
      [{ type: 'roundAck', round: 1, pages: 5 }],
      [{ type: 'running', resumeMs: 1, sinceReadyMs: 0 }],
    ]);
    expect(summaryOf(await findingsIn(once(answers)))).toMatchObject({ whole: true, outcome: { type: 'running' } });
  });

  test('a torn file gives what is whole, and where it ends', async () => {
    const path = await folder.record(FAULTLESS);
    const bytes = Buffer.concat(await createReadStream(path).toArray());
    const whole = await findingsIn(once(bytes), true);
    const frames = only(whole, 'frame');
    const { offset } = frames[2] as (typeof frames)[number];
    // Inside the payload of the third frame.
    const findings = await findingsIn(once(bytes.subarray(0, offset + 5000)), true);
    expect(only(findings, 'frame').slice(0, 2)).toEqual(frames.slice(0, 2));
    expect(only(findings, 'broken')).toEqual([
      {
        event: 'broken',
        offset,
        code: 'GODWIT_LINK_LOST',
        message: `it ends at byte ${offset + 5000}, inside the frame that starts at byte ${offset}`,
      },
    ]);
    expect(summaryOf(findings)).toMatchObject({ whole: false, outcome: { type: 'unfinished' } });
  });

  test('two gigabytes take no more memory than two megabytes', async () => {
    const frame = await bareStream([[{ type: 'pages', round: 1, block: 0, runs: [0, 256] }, 2 ** 20]]);
    const many = 2048;
    async function* stream(): AsyncGenerator<Uint8Array> {
      for (let i = 0; i < many; i++) yield frame;
    }
    await findingsIn(once(frame));
    const before = process.memoryUsage().rss;
    let most = 0;
    const watched = async function* (): AsyncGenerator<Uint8Array> {
      for await (const bytes of stream()) {
        most = Math.max(most, process.memoryUsage().rss);
        yield bytes;
      }
    };
    expect(summaryOf(await findingsIn(watched())).frames.pages).toEqual({ count: many, bytes: many * frame.length });
    expect((most - before) / 2 ** 20).toBeLessThan(128);
  });
});
