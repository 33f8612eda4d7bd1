import { spawnSync } from 'node:child_process';
import { createReadStream, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import { type Frame, type FrameStream, GodwitError, type PageStream } from '@godwit/core';
import { memoryLink } from '@godwit/core/testing';
import { recordTo } from '@godwit/transport';
import { afterEach, beforeEach, describe, expect, jest, test } from '@jest/globals';
import { byTrack, codeOf, inPieces, itemsOf, PAGE, recordedMigration } from './recorded-migration.js';

jest.setTimeout(60_000);

let folder: string;
let path: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'godwit-recording-'));
  path = join(folder, 'migration.godwit');
});

afterEach(() => rmSync(folder, { recursive: true, force: true }));

describe('a recording', () => {
  test.each([
    { recordedAt: 'source', pageChannels: 0 },
    { recordedAt: 'source', pageChannels: 3 },
    { recordedAt: 'destination', pageChannels: 0 },
    { recordedAt: 'destination', pageChannels: 3 },
  ] as const)('made at the $recordedAt holds every frame of $pageChannels page channels', async (given) => {
    const recording = await recordTo(path);
    const { recordedAt, pageChannels } = given;
    const run = await recordedMigration(recording, { recordedAt, migrate: { pageChannels, verify: true } });
    expect([codeOf(run.sent), codeOf(run.received)]).toEqual([undefined, undefined]);
    expect(run.source.memory.firstDifference(run.destination.memory)).toBeUndefined();
    const summary = await recording.close();

    const { items, frames } = await itemsOf(createReadStream(path));
    expect(byTrack(frames)).toEqual(byTrack(run.seen));
    const types: readonly Frame['type'][] = [
      ...(['hello', 'welcome', 'pages', 'zeroPages', 'roundEnd', 'roundAck', 'switchover'] as const),
      ...(['ready', 'digests', 'digestsEnd', 'verified', 'go', 'running', 'released'] as const),
    ];
    expect([...new Set(frames.map(({ frame }) => frame.type))]).toEqual(expect.arrayContaining([...types]));
    expect(summary).toEqual({ path, bytes: statSync(path).size, frames: frames.length });
    expect(items.at(0)).toMatchObject({ type: 'recording', version: 1, offset: 0 });
    expect(items.at(1)).toMatchObject({ type: 'link', link: 0, side: recordedAt, peer: 'memory' });
    expect(items.at(-1)).toMatchObject({ type: 'recordingEnd', frames: frames.length, error: undefined });
    // This side's direction of each stream has ended in order; the other's as far as anybody here read to its end.
    const ends = items.flatMap((item) => (item.type === 'streamEnd' ? [item] : []));
    expect(ends.filter(({ sender }) => sender === recordedAt).map(({ stream }) => stream)).toEqual(
      Array.from({ length: pageChannels + 1 }, (_, stream) => stream),
    );
    expect(ends.filter(({ error }) => error !== undefined)).toEqual([]);
  });

  test('has the very bytes that were sent, though the guest writes while they are sent', async () => {
    const recording = await recordTo(path);
    let writes = 0;
    const run = await recordedMigration(recording, {
      link: { copies: 'late' },
      migrate: { verify: true },
      onHandedOver: (frame, source) => {
        if (frame.type !== 'pages' || frame.round !== 1) return;
        source.write(0, 2 * PAGE, new Uint8Array(PAGE).fill(0xee));
        writes++;
      },
    });
    await recording.close();
    expect(writes).toBeGreaterThan(0);
    const { frames } = await itemsOf(createReadStream(path));
    expect(byTrack(frames)).toEqual(byTrack(run.seen));
    const rounds = frames.flatMap(({ frame, payload }) =>
      frame.type === 'pages' ? [{ round: frame.round, payload }] : [],
    );
    expect(rounds.filter(({ payload }) => payload.includes('ee'.repeat(PAGE))).map(({ round }) => round)).toEqual([2]);
  });

  test('of a migration whose link is cut says so, and is whole itself', async () => {
    const recording = await recordTo(path);
    const run = await recordedMigration(recording, {
      migrate: { pageChannels: 2 },
      onFrame: (frame, _source, cut) => frame.type === 'roundEnd' && cut(),
    });
    expect(codeOf(run.sent)).toBe('GODWIT_LINK_LOST');
    await recording.close();
    const { items } = await itemsOf(createReadStream(path));
    const lost = items.flatMap((item) =>
      item.type === 'streamEnd' && item.error !== undefined ? [item.error.code] : [],
    );
    expect(lost).toContain('GODWIT_LINK_LOST');
    expect(items.at(-1)).toMatchObject({ type: 'recordingEnd', error: undefined });
  });

  test('numbers links: a second one is told apart from the first', async () => {
    const recording = await recordTo(path);
    await recordedMigration(recording);
    await recordedMigration(recording);
    await recording.close();
    const { items } = await itemsOf(createReadStream(path));
    const links = items.flatMap((item) => (item.type === 'frame' ? [item.track?.link] : []));
    expect(new Set(links)).toEqual(new Set([0, 1]));
    expect(links).toEqual([...links].sort());
  });

  test('is for its owner only, and replaces nothing', async () => {
    const recording = await recordTo(path);
    await recording.close();
    expect(statSync(path).mode & 0o777).toBe(0o600);
    await expect(recordTo(path)).rejects.toMatchObject({
      code: 'GODWIT_RECORDING_FAILED',
      message: expect.stringContaining('exists already'),
    });
    await expect(recordTo(join(folder, 'no', 'such'))).rejects.toMatchObject({ code: 'GODWIT_RECORDING_FAILED' });
  });

  test('of page channels that live on other threads is refused, at both ends', async () => {
    const recording = await recordTo(path);
    const { connector, listener } = memoryLink();
    const elsewhere = (channels: readonly FrameStream[]): readonly PageStream[] =>
      channels.map((channel) => {
        const refuse = (): never => {
          throw new Error('not here');
        };
        return Object.assign(channel, { sendPages: refuse, receivePages: refuse });
      });
    const signal = AbortSignal.timeout(60_000);
    const request = { migrationId: '0'.repeat(32), pageChannels: 1, connection: 1 };
    const source = recording.connector({
      connect: async (...given) => {
        const link = await connector.connect(...given);
        return { ...link, pageChannels: elsewhere(link.pageChannels) };
      },
    });
    await expect(source.connect(request, signal)).rejects.toMatchObject({ code: 'GODWIT_UNSUPPORTED' });
    await listener.accept(signal);
    const destination = recording.listener({
      accept: async (given) => {
        const incoming = await listener.accept(given);
        return {
          ...incoming,
          pageChannels: async (...claim) => elsewhere(await incoming.pageChannels(...claim)),
        };
      },
      close: () => listener.close(),
    });
    await connector.connect(request, signal);
    const incoming = await destination.accept(signal);
    const claiming = incoming.pageChannels(request.migrationId, 1, signal);
    await expect(claiming).rejects.toMatchObject({ code: 'GODWIT_UNSUPPORTED' });
    await recording.close();
  });

  test('that is closed early ends there, and the migration goes on', async () => {
    const recording = await recordTo(path);
    let closed: Promise<unknown> | undefined;
    const run = await recordedMigration(recording, {
      migrate: { verify: true },
      onFrame: (frame) => {
        if (frame.type === 'roundEnd') closed ??= recording.close();
      },
    });
    expect([codeOf(run.sent), run.destination.running]).toEqual([undefined, true]);
    await closed;
    const { items, frames } = await itemsOf(createReadStream(path));
    expect(items.at(-1)).toMatchObject({ type: 'recordingEnd', error: undefined });
    const types = frames.map(({ frame }) => frame.type);
    expect([types.includes('roundEnd'), types.includes('switchover')]).toEqual([true, false]);
  });

  test('in memory is bounded: whoever writes waits for a disk that is behind, and abort ends the wait', async () => {
    const recording = await recordTo(path);
    const { connector, listener } = memoryLink({ capacity: 1000 });
    const signal = AbortSignal.timeout(60_000);
    const request = { migrationId: '0'.repeat(32), pageChannels: 1, connection: 1 };
    const link = await recording.connector(connector).connect(request, signal);
    await listener.accept(signal);
    const channel = link.pageChannels[0] as FrameStream;
    const payload = Array.from({ length: 256 }, () => new Uint8Array(PAGE));
    let settled = 0;
    const writeMuch = async (): Promise<Promise<void>[]> => {
      const writes = Array.from({ length: 16 }, (_, round) =>
        channel.write({ type: 'pages', round, block: 0, runs: [0, 256] }, payload).finally(() => settled++),
      );
      // No turn of the event loop: the link has taken all of them, and nothing can have reached the disk.
      for (let i = 0; i < 200; i++) await undefined;
      return writes;
    };
    await Promise.all(await writeMuch());
    expect(settled).toBe(16);
    const writes = await writeMuch();
    expect(settled).toBe(16);
    const reason = new GodwitError('GODWIT_CANCELLED', 'enough');
    channel.abort(reason);
    const results = await Promise.allSettled(writes);
    expect(results).toEqual(writes.map(() => ({ status: 'rejected', reason })));
    await recording.close();
    expect(statSync(path).size).toBeGreaterThan(32 * 2 ** 20);
  });
});

describe('a disk that is full', () => {
  const PROGRAM = new URL('recording-under-limit.js', import.meta.url).pathname;
  const run = (mode: string) => {
    const command = 'ulimit -f 1024 && exec "$0" "$@"';
    const { stdout, stderr } = spawnSync('/bin/bash', ['-c', command, process.execPath, PROGRAM, path, mode], {
      encoding: 'utf8',
    });
    expect(stderr).toBe('');
    return JSON.parse(stdout);
  };

  test('fails the migration, and the guest runs on at the source', async () => {
    expect(run('fail')).toEqual({
      sent: 'GODWIT_RECORDING_FAILED',
      received: expect.any(String),
      running: ['source'],
      heard: [],
      closed: 'GODWIT_RECORDING_FAILED',
      message: expect.stringMatching(/the recording .* failed after \d+ bytes: EFBIG/),
    });
    await expectWholeAsFarAsItGoes();
  });

  test('is told, and the migration goes on where that was asked for', async () => {
    expect(run('go-on')).toMatchObject({
      running: ['destination'],
      heard: ['GODWIT_RECORDING_FAILED'],
      closed: 'GODWIT_RECORDING_FAILED',
    });
    await expectWholeAsFarAsItGoes();
  });

  test.each([
    { at: 'hello', running: ['source'], sent: 'GODWIT_RECORDING_FAILED' },
    { at: 'ready', running: ['destination'], sent: undefined },
    { at: 'digestsEnd', running: ['destination'], sent: undefined },
    { at: 'go', running: ['destination'], sent: undefined },
  ] as const)(
    'that fills up at "$at" never costs the guest: it runs at the $running',
    async ({ at, running, sent }) => {
      for (const recordedAt of ['source', 'destination'] as const) {
        const file = join(folder, recordedAt);
        const recording = await recordTo(file);
        const anyHandle = await open(file);
        const handles = Object.getPrototypeOf(anyHandle) as { writev: FileHandle['writev'] };
        await anyHandle.close();
        const full = new Error('ENOSPC: no space left on device, write');
        const spy = jest.spyOn(handles, 'writev');
        try {
          let filled = false;
          const fill = (frame: Frame): void => {
            if (frame.type !== at) return;
            filled = true;
            spy.mockRejectedValue(full);
          };
          // The disk is slower than this link: the next step waits until it has failed.
          const failed = async (): Promise<void> => {
            while (filled && recording.failure === undefined) await setImmediate();
          };
          const run = await recordedMigration(recording, {
            recordedAt,
            migrate: { verify: true },
            onFrame: fill,
            onAnswer: fill,
            prepared: failed,
            harvested: failed,
          });
          const runs = [run.source.running && 'source', run.destination.running && 'destination'].filter(Boolean);
          expect([recordedAt, at, runs, codeOf(run.sent)]).toEqual([recordedAt, at, running, sent]);
          await expect(recording.close()).rejects.toMatchObject({ code: 'GODWIT_RECORDING_FAILED', cause: full });
        } finally {
          spy.mockRestore();
        }
      }
    },
  );

  async function expectWholeAsFarAsItGoes(): Promise<void> {
    const { items, frames } = await itemsOf(createReadStream(path));
    expect(frames.map(({ frame }) => frame.type)).toContain('hello');
    const error = { code: 'GODWIT_RECORDING_FAILED', message: expect.stringContaining('EFBIG') };
    expect(items.at(-1)).toMatchObject({ type: 'recordingEnd', frames: frames.length, error });
  }
});

describe('reading', () => {
  let bytes: Uint8Array;
  let starts: number[];

  beforeEach(async () => {
    const recording = await recordTo(path);
    await recordedMigration(recording, { pages: 8, migrate: { pageChannels: 1, verify: true } });
    await recording.close();
    bytes = readFileSync(path);
    starts = (await itemsOf(inPieces(bytes))).items.flatMap((item) => ('offset' in item ? [item.offset] : []));
  });

  test('a recording cut off at any byte gives what is whole, and says where it ends', async () => {
    const whole = (await itemsOf(inPieces(bytes))).items;
    // Every byte of the start, and then some of each kind.
    for (let end = 0; end < bytes.length; end += end < 600 ? 1 : 97) {
      const { items } = await itemsOf(inPieces(bytes.subarray(0, end)));
      const last = items.at(-1);
      if (last?.type !== 'broken') throw new Error(`cut off at ${end}: ${JSON.stringify(last)}`);
      expect(last.offset).toBeLessThanOrEqual(end);
      expect(JSON.stringify(items.slice(0, -1))).toBe(JSON.stringify(whole.slice(0, items.length - 1)));
    }
  });

  test('a recording with a byte changed never throws, and items before it stay', async () => {
    for (let at = 0; at < bytes.length; at += at < 600 ? 1 : 61) {
      const changed = Uint8Array.from(bytes);
      changed[at] = (changed[at] as number) ^ 0x91;
      const { items } = await itemsOf(inPieces(changed));
      const before = starts.filter((start) => start <= at).length - 1;
      expect(items.length).toBeGreaterThanOrEqual(before);
    }
  });

  test.each([
    ['nothing', '', 0, 'there is nothing in it'],
    ['text', Buffer.from('GET / HTTP/1.1').toString('hex'), 0, 'this looks like HTTP'],
    ['a header of 4 GiB', 'ceffffffff', 0, 'a frame header has 4294967295 bytes'],
    ['a frame of recordings alone', 'ce000000079581820000a153009100', 0, 'a frame header'],
    ['a recording of a newer version', 'ce0000000794cc8002a17800', 0, 'a recording of version 2 by x'],
  ])('%s is broken', async (_name, hex, offset, says) => {
    const { items } = await itemsOf(inPieces(Buffer.from(hex, 'hex')));
    expect(items).toEqual([
      { type: 'broken', offset, error: expect.objectContaining({ message: expect.stringContaining(says) }) },
    ]);
  });

  test('frames of recordings are refused where they do not belong', async () => {
    const frame = (fields: string) =>
      Buffer.from(`ce${(fields.length / 2).toString(16).padStart(8, '0')}${fields}`, 'hex');
    const recording = frame('94cc8001a17800');
    const mark = frame('95cc820000a15300');
    const go = frame('920c01');
    const end = frame('95cc840000c0c0');
    const cases: [Buffer[], string, number][] = [
      [[recording, go], 'without a "recorded" frame', 12],
      [[recording, mark, end], 'but a recordingEnd frame follows', 25],
      [[recording, recording], 'a second "recording" frame', 12],
      [[recording, end, end], 'follows the end of the recording', 24],
      [[recording, end, mark, go], 'follows the end of the recording', 24],
      [[recording, mark], 'stops inside a frame', 25],
      [[recording, mark, go], 'stops between two frames', 33],
      [[go, mark, go], 'outside of a recording', 8],
      [[recording, frame('95cc820000a15800')], 'sender must be "S" or "D"', 12],
    ];
    for (const [frames, says, offset] of cases) {
      const { items } = await itemsOf(inPieces(Buffer.concat(frames)));
      expect(items.at(-1)).toMatchObject({
        type: 'broken',
        offset,
        error: { message: expect.stringContaining(says) },
      });
    }
    expect((await itemsOf(inPieces(Buffer.concat([recording, mark, go, end])))).items.map(({ type }) => type)).toEqual([
      'recording',
      'frame',
      'recordingEnd',
    ]);
  });

  test('a bare stream is read too', async () => {
    const bare = Buffer.from('ce00000003920c01ce0000000392116e', 'hex');
    const { items } = await itemsOf(inPieces(bare, 3));
    expect(items).toMatchObject([
      {
        type: 'frame',
        offset: 0,
        byteLength: 8,
        frame: { type: 'go', attempt: 1 },
        track: undefined,
        atMicros: undefined,
      },
      { type: 'frame', offset: 8, byteLength: 8, frame: { type: 'ping', id: 110 }, track: undefined },
    ]);
  });

  test('errors of the file itself are thrown', async () => {
    await expect(itemsOf(createReadStream(join(folder, 'missing')))).rejects.toMatchObject({ code: 'ENOENT' });
    writeFileSync(join(folder, 'empty'), '');
    expect((await itemsOf(createReadStream(join(folder, 'empty')))).items).toMatchObject([{ type: 'broken' }]);
  });
});
