import { copyFileSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { migrate } from '@godwit/core';
import { FaultyDevice, ToyVm } from '@godwit/core/testing';
import { connectTo, file } from '@godwit/transport';
import { afterAll, beforeAll, describe, expect, jest, test } from '@jest/globals';
import { type Finding, inspectSnapshot } from 'godwit';
import { godwit } from './godwit-command.js';

jest.setTimeout(60_000);

const PAGE = 4096;
const PAGES = 600;

let folder: string;
let path: string;
let damaged: string;
let layout: Record<'metadata' | 'pages' | 'index' | 'piece', number>;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'godwit-inspect-snapshot-'));
  path = join(folder, 'guest.snap');
  damaged = join(folder, 'damaged.snap');
  const state = Buffer.from('the state of the vCPU'.repeat(100));
  const blocks = [
    { id: 'low', guestPhysicalAddress: 0, byteLength: PAGES * PAGE },
    { id: 'high', guestPhysicalAddress: 2 ** 32, byteLength: 3 * PAGE },
  ];
  const vm = new ToyVm(blocks, { devices: [new FaultyDevice('vcpu', state)] });
  for (let page = 0; page < PAGES; page++) {
    if (page % 7 < 3) vm.write(0, page * PAGE, new Uint8Array(PAGE).fill(1 + (page % 255)));
  }
  vm.write(1, 2 * PAGE, new Uint8Array(PAGE).fill(9));
  await migrate(vm, connectTo(file({ path })), { description: { name: 'vm1' } }).result;
  const bytes = readFileSync(path);
  const findings = await findingsIn(path);
  const [low] = findings.flatMap((finding) => (finding.event === 'block' ? [finding.offset] : []));
  const metadata = findings.find(({ event }) => event === 'snapshot') as { offset: number };
  layout = {
    metadata: metadata.offset,
    pages: low as number,
    piece: bytes.indexOf(state.subarray(0, 100)),
    // 258 and 1 digests, and a bitmap for each block.
    index: metadata.offset - (258 + 1) * 8 - 80 - 8,
  };
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

async function findingsIn(snapshot: string): Promise<Finding[]> {
  const findings: Finding[] = [];
  for await (const finding of inspectSnapshot(snapshot)) findings.push(finding);
  return findings;
}

/** The same snapshot with these bytes changed. */
async function changedAt(...offsets: number[]): Promise<Finding[]> {
  copyFileSync(path, damaged);
  const bytes = readFileSync(damaged);
  for (const offset of offsets) bytes[offset] = (bytes[offset] as number) ^ 0x40;
  writeFileSync(damaged, bytes);
  return findingsIn(damaged);
}

describe('a snapshot', () => {
  test('is told by its hello, blocks and devices, with every page checked', async () => {
    const findings = await findingsIn(path);
    expect(findings).toMatchObject([
      {
        event: 'snapshot',
        hello: { pageSize: PAGE, description: { name: 'vm1' } },
        runState: 'running',
        fileBytes: readFileSync(path).length,
      },
      { event: 'block', id: 'low', pages: PAGES, present: 258 },
      { event: 'block', id: 'high', pages: 3, present: 1 },
      { event: 'device', id: 'vcpu', bytes: 2100 },
      {
        event: 'summary',
        whole: true,
        damages: 0,
        pages: { raw: 259, zero: PAGES + 3 - 259 },
        outcome: { type: 'saved' },
      },
    ]);
  });

  test('with damaged pages and state tells each of them, and goes on', async () => {
    const high = (await findingsIn(path)).find((finding) => finding.event === 'block' && finding.id === 'high');
    const last = (high as { offset: number }).offset + 2 * PAGE;
    const findings = await changedAt(
      layout.pages + 17,
      layout.pages + 7 * PAGE,
      layout.pages + 598 * PAGE - 1,
      last + PAGE - 1,
      layout.piece + 1,
    );
    const damage = findings.flatMap((finding) => (finding.event === 'damage' ? [finding] : []));
    expect(damage.map(({ offset }) => offset)).toEqual([
      ...[layout.pages, layout.pages + 7 * PAGE, layout.pages + 597 * PAGE, last, layout.piece],
    ]);
    expect(damage[1]?.message).toContain('page 7 of RAM block "low" does not match its checksum');
    expect(damage[4]?.message).toContain('state of device "vcpu"');
    expect(findings.at(-1)).toMatchObject({ whole: false, damages: 5 });
  });

  test.each([
    ['header', (): number => 20, (): number => 0, 'checksum'],
    ['format version', (): number => 19, (): number => 0, 'format'],
    ['metadata', (): number => layout.metadata + 10, (): number => layout.metadata, 'metadata'],
    ['index', (): number => layout.index + 3, (): number => layout.index, 'index'],
    ['digests', (): number => layout.metadata - 1, (): number => layout.index, 'index'],
  ] as const)('with a damaged %s is not read further', async (_name, at, offset, says) => {
    const findings = await changedAt(at());
    const broken = findings.filter(({ event }) => event === 'broken');
    expect(broken).toMatchObject([{ offset: offset(), message: expect.stringContaining(says) }]);
    expect(findings.at(-1)).toMatchObject({ event: 'summary', whole: false });
  });

  test('does not care about what stands in the places of absent pages', async () => {
    expect((await changedAt(layout.pages + 3 * PAGE)).at(-1)).toMatchObject({ whole: true });
  });

  test('that is torn, unfinished or empty says so', async () => {
    const said = async () =>
      (await findingsIn(damaged)).flatMap((finding) => (finding.event === 'broken' ? [finding.message] : []));
    const bytes = readFileSync(path);
    for (const length of [0, 1, 15, 16, 111, 4096, layout.pages, layout.metadata, bytes.length - 1]) {
      copyFileSync(path, damaged);
      truncateSync(damaged, length);
      expect(await said()).toHaveLength(1);
    }
    writeFileSync(damaged, bytes.fill(0, 0, 4096));
    expect(await said()).toEqual([expect.stringContaining('saving was interrupted before its end')]);
  });
});

describe('godwit inspect', () => {
  test('knows a snapshot by its first bytes', async () => {
    const { status, stdout } = await godwit(['inspect', path]);
    expect(status).toBe(0);
    expect(stdout).toMatch(/^ +\d+ +block +low: 258 of 600 pages, the others are zero$/m);
    expect(stdout).toMatch(/file +whole\n$/);
    await changedAt(layout.pages);
    const wrong = await godwit(['inspect', '--json', damaged]);
    expect(wrong).toMatchObject({
      status: 1,
      stderr: expect.stringMatching(/^godwit: .* is not whole: at byte \d+: .*page 0 of RAM block "low"/),
    });
  });

  test('says that a snapshot is no stream, and that an unfinished one is none', async () => {
    const piped = await godwit(['inspect', '-'], readFileSync(path));
    expect([piped.status, piped.stderr]).toEqual([1, expect.stringContaining('this looks like a snapshot')]);
    writeFileSync(damaged, new Uint8Array(10_000));
    const unfinished = await godwit(['inspect', damaged]);
    expect([unfinished.status, unfinished.stderr]).toEqual([1, expect.stringContaining('saving was interrupted')]);
  });
});
