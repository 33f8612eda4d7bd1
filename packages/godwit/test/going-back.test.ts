import { createReadStream, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type MigratableDevice, migrate, receive } from '@godwit/core';
import { memoryLink, ToyVm } from '@godwit/core/testing';
import { recordTo } from '@godwit/transport';
import { afterAll, beforeAll, expect, jest, test } from '@jest/globals';
import { type Finding, inspectRecording } from 'godwit';

jest.setTimeout(60_000);

const PAGE = 4096;
const BLOCKS = [{ id: 'ram', guestPhysicalAddress: 0, byteLength: 64 * PAGE }];

let folder: string;

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'godwit-going-back-'));
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** A device that has not saved, or not loaded, before its first stop-and-copy is given up. */
function slowOnce(at: 'save' | 'load', givenUp: Promise<unknown>): MigratableDevice {
  let calls = 0;
  return {
    id: 'slow',
    version: 1,
    async *precopy() {
      yield new Uint8Array(10);
    },
    async *save() {
      yield new Uint8Array(100);
      if (at === 'save' && ++calls === 1) await givenUp;
    },
    async load(state) {
      for await (const _ of state);
      if (at === 'load' && ++calls === 1) await givenUp;
    },
    restart: async () => {},
    reset: async () => {},
    loadWrites: () => [{ block: 0, firstPage: 3, pageCount: 2 }],
  };
}

test.each(
  (['save', 'load'] as const).flatMap((at) =>
    (['source', 'destination'] as const).flatMap((side) => [0, 2].map((pageChannels) => ({ at, side, pageChannels }))),
  ),
)(
  'a migration whose first $at is too slow, recorded at the $side with $pageChannels page channels, obeys the protocol',
  async (given) => {
    const { at, side, pageChannels } = given;
    const path = join(folder, `${at}-${side}-${pageChannels}.godwit`);
    const recording = await recordTo(path);
    const { connector, listener } = memoryLink();
    let goBack: () => void = () => {};
    const givenUp = new Promise<void>((resolve) => {
      goBack = resolve;
    });
    const source = new ToyVm(BLOCKS, { devices: [slowOnce(at, givenUp)] });
    const destination = new ToyVm(BLOCKS, { running: false, devices: [slowOnce(at, givenUp)] });
    for (let page = 0; page < 64; page += 2) source.write(0, page * PAGE, new Uint8Array(PAGE).fill(page + 1));
    const incoming = receive(side === 'destination' ? recording.listener(listener) : listener, {
      prepare: () => destination,
    });
    const migration = migrate(source, side === 'source' ? recording.connector(connector) : connector, {
      pageChannels,
      pauseLimitMs: 50,
    });
    migration.subscribe((event) => {
      if (event.type === 'went-back') goBack();
    });
    await Promise.all([migration.result, incoming.result]);
    await recording.close();
    expect(source.memory.firstDifference(destination.memory)).toBeUndefined();

    const findings: Finding[] = [];
    for await (const finding of inspectRecording(createReadStream(path))) findings.push(finding);
    const of = <E extends Finding['event']>(event: E) =>
      findings.filter((finding): finding is Extract<Finding, { event: E }> => finding.event === event);
    expect(of('violation')).toEqual([]);
    const attempts = of('attempt');
    expect(attempts.length).toBeGreaterThan(1);
    expect(attempts.map(({ attempt, end }) => [attempt, end])).toEqual(
      attempts.map(({ attempt }, i) => [i + 1, attempt === attempts.length ? 'go' : 'back']),
    );
    expect(findings.at(-1)).toMatchObject({
      whole: true,
      attempts: attempts.length,
      wentBack: attempts.length - 1,
      outcome: { type: 'running', runState: 'running' },
    });
  },
);
