import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { DESTINATION_PHASES, type DestinationPhaseName, isLegal, type WelcomeFrame } from '@godwit/core';
import { afterAll, describe, expect, test } from '@jest/globals';
import { readMetadata, readSnapshot } from './snapshot-forge.js';
import { example, hello, piece, Source, saved, TYPES } from './snapshot-frames.js';
import { PAGE, pageOf, partials, snapshotFolder } from './snapshot-machine.js';

const { folder, newPath, close } = await snapshotFolder();
afterAll(close);

/** Ways into the phases of a file that plays the destination. */
const TO_PHASE: Readonly<Partial<Record<DestinationPhaseName, (source: Source) => Promise<void>>>> = {
  greeting: async () => {},
  preparing: async (source) => void (await source.greet({ stage: 'dryRun' })),
  receiving: async (source) => void (await source.greet()),
  ready: async (source) => {
    await source.greet();
    await source.round();
    await source.devices();
    await source.say({ type: 'switchover', round: 1, attempt: 1, runState: 'running' });
    await source.hear('ready');
  },
  'taking-over': async (source) => {
    await TO_PHASE.ready?.(source);
    await source.say({ type: 'go', attempt: 1 });
    await source.hear('running');
  },
};

describe('a file as the destination', () => {
  test('agrees to verify alone, says who it is, and takes as much state as it holds', async () => {
    const welcomes: WelcomeFrame[] = [];
    for (let i = 0; i < 2; i++) {
      const source = await Source.of(newPath());
      welcomes.push(await source.greet());
      await source.end();
    }
    expect(welcomes).toMatchObject(
      new Array(2).fill({
        version: 2,
        features: ['verify'],
        incarnation: expect.stringMatching(/^[0-9a-f]{32}$/),
        maximumDeviceState: 2 ** 37,
      }),
    );
    expect(welcomes[0]?.incarnation).not.toBe(welcomes[1]?.incarnation);
    expect(partials(folder)).toEqual([]);
  });

  test('is prepared at once, takes pieces of pre-copy as they come, and names the attempt in its answers', async () => {
    const path = newPath();
    const source = await Source.of(path);
    const { incarnation } = await source.greet();
    await source.round();
    await source.say({ type: 'prepare', attempt: 3, deviceSequences: [0, 0] });
    expect(await source.hear('prepared')).toEqual({
      type: 'prepared',
      incarnation,
      attempt: 3,
      deviceSequences: [0, 0],
    });
    await Promise.all(
      [0, 1, 2].map((sequence) => source.say(piece(1, sequence, 0), Buffer.from(`early ${sequence};`))),
    );
    for (const sequence of [1, 2, 3]) {
      expect(await source.hear('loaded')).toEqual({ type: 'loaded', device: 1, sequence });
    }
    await source.say({ type: 'prepare', attempt: 3, deviceSequences: [0, 3] });
    expect(await source.hear('prepared')).toMatchObject({ deviceSequences: [0, 3] });
    await source.devices(3);
    await source.say({ type: 'switchover', round: 1, attempt: 3, runState: 'paused' });
    expect(await source.hear('ready')).toMatchObject({ attempt: 3, loadMs: expect.any(Number) });
    await source.say({ type: 'go', attempt: 3 });
    const { resumeMs, sinceReadyMs } = await source.hear('running');
    expect(sinceReadyMs).toBeGreaterThanOrEqual(resumeMs);
    await source.say({ type: 'released' });
    await source.end();

    const { devices, runState, ram } = readSnapshot(readFileSync(path));
    expect(devices.get('serial')?.toString()).toBe('early 0;early 1;early 2;the serial port');
    expect(devices.get('vcpu')?.toString()).toBe('the state of the vCPU');
    expect(runState).toBe('paused');
    expect(ram[0]?.subarray(PAGE, 2 * PAGE).equals(pageOf(1))).toBe(true);
  });

  test('takes pieces in their order, however long each takes to write', async () => {
    const source = await Source.of(newPath());
    await source.greet();
    for (let sequence = 0; sequence < 8; sequence += 2) {
      await Promise.all([
        source.say(piece(0, sequence, 0), new Uint8Array(2 ** 22)),
        source.say(piece(0, sequence + 1, 0), new Uint8Array(1)),
      ]);
      for (const next of [1, 2]) expect(await source.hear('loaded')).toMatchObject({ sequence: sequence + next });
    }
    await source.end();
  });

  test('takes no more state than it has said', async () => {
    const source = await Source.of(newPath());
    const { maximumDeviceState } = await source.greet();
    // The bytes are counted before they are read, so that they need not be there.
    const large = (length: number) => ({ length, byteLength: length }) as unknown as Uint8Array;
    await expect(source.say(piece(0, 0, 0), large(maximumDeviceState + 1))).rejects.toMatchObject({
      code: 'GODWIT_LIMIT_EXCEEDED',
    });
    await source.end();
  });

  test('keeps nothing of what memory it was', async () => {
    const path = newPath();
    await saved(path);
    const blocks = readMetadata(readFileSync(path)).hello[6] as unknown[][];
    expect(blocks.map(([, , , identity]) => identity)).toEqual(['', '']);
  });

  test.each(['running', 'dryRun'] as const)(
    'refuses a block that is shared, whose content it would not have (%s)',
    async (stage) => {
      const path = newPath();
      const source = await Source.of(path);
      const blocks = hello().blocks.map((block, i) => (i === 1 ? { ...block, shared: true as const } : block));
      await expect(source.say(hello({ stage, blocks, features: ['shared'] }))).rejects.toMatchObject({
        code: 'GODWIT_SHARED_MEMORY',
        message: expect.stringContaining('its content would not be in the snapshot'),
      });
      await source.end();
      expect([existsSync(path), partials(folder)]).toEqual([false, []]);
    },
  );

  test('keeps what the guest cannot write', async () => {
    const path = newPath();
    await saved(path, 'running', { blocks: hello().blocks.map((block) => ({ ...block, readOnly: true as const })) });
    const blocks = readMetadata(readFileSync(path)).hello[6] as unknown[][];
    expect(blocks.map(([, , , , flags]) => flags)).toEqual([2, 2]);
  });

  test('only says what it would take, where that is the question, and leaves no trace', async () => {
    const path = newPath();
    writeFileSync(path, 'an older snapshot');
    const source = await Source.of(path);
    expect(await source.greet({ stage: 'dryRun' })).toMatchObject({ features: ['verify'] });
    await source.end();
    expect([readFileSync(path, 'utf8'), partials(folder)]).toEqual(['an older snapshot', []]);
  });

  test.each(['paused', 'handedOver', 'kept'] as const)('knows no migration that is "%s"', async (stage) => {
    const source = await Source.of(newPath());
    await expect(source.say(hello({ stage }))).rejects.toMatchObject({ code: 'GODWIT_UNKNOWN_MIGRATION' });
    await source.end();
  });

  describe('takes nothing that the table forbids', () => {
    test.each(Object.keys(TO_PHASE) as DestinationPhaseName[])('in phase "%s"', async (phase) => {
      const illegal = TYPES.filter((type) => !isLegal('destination', phase, type));
      expect(illegal.length).toBeGreaterThan(10);
      for (const type of illegal) {
        const path = newPath();
        const source = await Source.of(path);
        await TO_PHASE[phase]?.(source);
        await expect(source.say(example(type))).rejects.toMatchObject({
          code: expect.stringMatching(/PROTOCOL|STATE/),
        });
        await source.end();
        expect([type, existsSync(path), partials(folder)]).toEqual([type, phase === 'taking-over', []]);
      }
    });

    test('nor pages on the control stream beside page channels, nor anything else on these', async () => {
      for (const [channel, frame] of [
        [false, example('zeroPages')],
        [true, piece(0, 0, 0)],
      ] as const) {
        const source = await Source.of(newPath(), 1);
        await source.greet({ pageChannels: 1 });
        const [stream] = source.link.pageChannels;
        await expect(channel ? stream?.write(frame) : source.say(frame)).rejects.toMatchObject({
          code: 'GODWIT_PROTOCOL',
        });
        await source.end();
      }
    });
  });

  const sends: readonly (readonly [string, (source: Source) => Promise<void>, RegExp])[] = [
    ['"back", to which it has not agreed', (s) => s.say({ type: 'back', attempt: 1 }), /takes no "back" frame/],
    ['deltas, likewise', (s) => s.say(example('deltaPages')), /takes no "deltaPages" frame/],
    [
      'a piece that is lost',
      async (s) => {
        await s.say(piece(0, 0, 0));
        await s.say(piece(0, 2, 0));
      },
      /piece 2 of device "vcpu" came, where piece 1 is next/,
    ],
    [
      'pieces that do not begin anew in the attempt',
      async (s) => {
        await s.say(piece(0, 0, 0));
        await s.say(piece(0, 1, 1));
      },
      /piece 1 of device "vcpu" came, where piece 0 is next/,
    ],
    [
      'a piece behind the last one',
      async (s) => {
        await s.say(piece(0, 0, 1, true));
        await s.say(piece(0, 1, 1));
      },
      /"vcpu" came after its last one/,
    ],
    [
      'a piece of pre-copy with the guest paused',
      async (s) => {
        await s.say(piece(0, 0, 1));
        await s.say(piece(1, 0, 0));
      },
      /device "serial" of pre-copy came in stop-and-copy 1/,
    ],
    [
      'two attempts',
      async (s) => {
        await s.say(piece(0, 0, 1));
        await s.say(piece(1, 0, 2));
      },
      /of stop-and-copy 2 came, where that of 1 is under way/,
    ],
    ['a device that there is not', (s) => s.say(piece(2, 0, 0)), /piece of device 2 came; the hello lists 2/],
    [
      'a question for pieces that have not come',
      (s) => s.say({ type: 'prepare', attempt: 1, deviceSequences: [1, 0] }),
      /names the pieces 1, 0, but 0, 0 came/,
    ],
    [
      'a question for other devices',
      (s) => s.say({ type: 'prepare', attempt: 1, deviceSequences: [0] }),
      /names the pieces 0, but 0, 0 came/,
    ],
    [
      'a switchover with a device half saved',
      async (s) => {
        await s.say(piece(0, 0, 1, true));
        await s.say(piece(1, 0, 1));
        await s.say({ type: 'switchover', round: 0, attempt: 1, runState: 'running' });
      },
      /before the end of the state of device "serial"/,
    ],
    [
      'a switchover of another round',
      async (s) => {
        await s.round();
        await s.devices();
        await s.say({ type: 'switchover', round: 2, attempt: 1, runState: 'running' });
      },
      /"switchover" of round 2 came after round 1/,
    ],
    [
      'a switchover of another attempt',
      async (s) => {
        await s.round();
        await s.devices();
        await s.say({ type: 'switchover', round: 1, attempt: 2, runState: 'running' });
      },
      /stop-and-copy 2 came, where that of 1/,
    ],
    [
      'a switchover of no attempt',
      async (s) => {
        await s.say({ type: 'switchover', round: 0, attempt: 0, runState: 'running' });
      },
      /stop-and-copy 0 came/,
    ],
    [
      'go of another attempt',
      async (s) => {
        await s.round();
        await s.devices();
        await s.say({ type: 'switchover', round: 1, attempt: 1, runState: 'running' });
        await s.say({ type: 'go', attempt: 2 });
      },
      /stop-and-copy 2 came, where that of 1/,
    ],
  ];
  test.each(sends)('refuses %s', async (_name, send, message) => {
    const path = newPath();
    const source = await Source.of(path);
    await source.greet();
    const refused = { code: 'GODWIT_PROTOCOL', message: expect.stringMatching(message) };
    await expect(send(source)).rejects.toMatchObject(refused);
    // Nothing is taken behind it, above all no `go`.
    await expect(source.say({ type: 'go', attempt: 1 })).rejects.toMatchObject(refused);
    await source.end();
    expect([existsSync(path), partials(folder)]).toEqual([false, []]);
  });
});

test('every phase that a file has is reached here', () => {
  // A file loads within its own call, keeps no guest, and is no link to measure; its guest does not run before it is there.
  expect(DESTINATION_PHASES.filter((phase) => TO_PHASE[phase] === undefined)).toEqual([
    'dry-run',
    'loading',
    'post-copy',
    'kept',
  ]);
});
