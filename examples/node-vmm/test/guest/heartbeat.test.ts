import {
  cellsText,
  GuestLineParser,
  type HeartbeatLine,
  HeartbeatMonitor,
  nextCells,
  parseGuestLine,
} from '@godwit/example-node-vmm/guest';
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';

const CELLS = 0xf0f1_f2f3_0000_0001n;
const ROW = ` |${cellsText(CELLS)}|`;
const BEAT = `[guest] heartbeat 000123 clock=2503116us gap=20013us stall=1523us writes=32768 mail=87${ROW}`;
const DEFECT =
  '[guest] defect kind=foreign-writer vcpu=1 gpa=0x0000000100218000 offset=0x0000000000000990 expected=0x4eefb8a300030000 found=0x4eefbca300030000';
const beat: HeartbeatLine = {
  type: 'heartbeat',
  count: 123,
  clock: 2503116,
  gap: 20013,
  stall: 1523,
  writes: 32768,
  mail: 87,
  cells: CELLS,
};

describe('guest lines', () => {
  test('a heartbeat', () => {
    expect(parseGuestLine(BEAT)).toEqual(beat);
  });

  test('a defect keeps its 64-bit words exactly', () => {
    expect(parseGuestLine(DEFECT)).toEqual({
      type: 'defect',
      kind: 'foreign-writer',
      vcpu: 1,
      guestPhysicalAddress: 0x1_0021_8000,
      offset: 0x990,
      expected: '0x4eefb8a300030000',
      found: '0x4eefbca300030000',
    });
  });

  test('the start', () => {
    expect(parseGuestLine('[guest] started vcpus=2 owned=3000')).toEqual({ type: 'started', vcpus: 2, owned: 3000 });
  });

  test.each([
    '',
    'hello',
    `${BEAT}x`,
    DEFECT.replace('foreign-writer', 'unheard-of'),
    BEAT.slice(0, 40),
    BEAT.replace('|', ''),
  ])('anything else stays text: %j', (text) => {
    expect(parseGuestLine(text)).toEqual({ type: 'other', text });
  });

  test('lines are found however the bytes are cut, also over two parsers', () => {
    const text = `[guest] started vcpus=1 owned=5\n${BEAT}\r\n\n${DEFECT}\n`;
    const whole = new GuestLineParser().push(text);
    expect(whole.map((line) => line.type)).toEqual(['started', 'heartbeat', 'other', 'defect']);
    const bytes = new TextEncoder().encode(text);
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 0, max: bytes.length })), fc.integer(), (cuts, handOver) => {
        const at = [...new Set([0, ...cuts, bytes.length])].sort((a, b) => a - b);
        let parser = new GuestLineParser();
        const lines = at.slice(1).flatMap((end, index) => {
          if (index === Math.abs(handOver) % at.length) parser = new GuestLineParser(parser.pending);
          return parser.push(bytes.subarray(at[index], end));
        });
        expect(lines).toEqual(whole);
        expect(parser.pending).toBe('');
      }),
    );
  });
});

describe('heartbeat monitor', () => {
  const next: HeartbeatLine = {
    ...beat,
    count: 124,
    clock: beat.clock + 61_000,
    gap: 61_000,
    stall: 42_000,
    cells: nextCells(CELLS),
  };

  test('follows a guest over a migration and keeps the longest gap and stall', () => {
    const monitor = new HeartbeatMonitor();
    expect(monitor.observe(beat)).toBeUndefined();
    expect(monitor.observe(next)).toBeUndefined();
    expect(monitor).toMatchObject({ longestGap: 61_000, longestStall: 42_000, last: next });
  });

  test.each<[string, Partial<HeartbeatLine>]>([
    ['heartbeat 123 after 123', { count: 123 }],
    ['heartbeat 125 after 123', { count: 125 }],
    ['clock 2503115 after 2503116', { clock: beat.clock - 1 }],
    ['gap 5, but the clocks differ by 61000', { gap: 5 }],
    ['32767 writes after 32768', { writes: beat.writes - 1 }],
    ['message 86 after 87', { mail: 86 }],
    ['the row f0f1f2f300000001 of the picture does not follow f0f1f2f300000001', { cells: CELLS }],
    ['does not follow f0f1f2f300000001', { cells: nextCells(nextCells(CELLS)) }],
  ])('says %s', (complaint, change) => {
    const monitor = new HeartbeatMonitor();
    monitor.observe(beat);
    expect(monitor.observe({ ...next, ...change })).toContain(complaint);
  });
});
