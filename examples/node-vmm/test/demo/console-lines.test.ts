import { cellsText, FIRST_CELLS, nextCells } from '@godwit/example-node-vmm/guest';
import { describe, expect, test } from '@jest/globals';
import { type ConsoleLine, ConsoleLines } from '../../dist/demo/console-lines.js';
import { HeartbeatWatch } from '../../dist/demo/heartbeat-watch.js';

function collected(): { readonly lines: ConsoleLine[]; readonly console: ConsoleLines } {
  const lines: ConsoleLine[] = [];
  return { lines, console: new ConsoleLines((line) => lines.push(line)) };
}

describe('the console of a guest that moves', () => {
  test('a line that begins at one host and ends at the other is one line', () => {
    const { lines, console } = collected();
    console.push('source', 'one\r\ntw');
    console.push('destination', 'o\r\n');
    expect(lines).toEqual([
      { host: 'source', text: 'one' },
      { host: 'destination', text: 'two' },
    ]);
  });

  test('text of the receiving host waits for the last character of the sending one', () => {
    const { lines, console } = collected();
    console.hold('destination');
    console.push('source', '1\n2');
    console.push('destination', ' and a half\n3\n');
    console.push('source', ' again');
    expect(lines).toHaveLength(1);
    console.release();
    expect(lines.map(({ text }) => text)).toEqual(['1', '2 again and a half', '3']);
  });
});

/** The picture's row of a heartbeat. */
function row(count: number): bigint {
  let cells = FIRST_CELLS;
  for (let at = 0; at < count; at++) cells = nextCells(cells);
  return cells;
}

describe('the heartbeat', () => {
  /** A heartbeat line as the guest prints it. Heartbeats are 100 ms apart. */
  const beat = (count: number, stallMs = 0) =>
    `[guest] heartbeat ${String(count).padStart(6, '0')} clock=${count * 100_000}us gap=100000us stall=${stallMs * 1000}us writes=${count * 10} mail=${count} |${cellsText(row(count))}|`;

  function watch(): {
    readonly defects: string[];
    readonly see: (host: ConsoleLine['host'], text: string) => void;
    readonly beats: HeartbeatWatch;
  } {
    const defects: string[] = [];
    const beats = new HeartbeatWatch((message) => defects.push(message));
    return { defects, beats, see: (host, text) => void beats.see({ host, text }) };
  }

  test('goes on by exactly one; a lost, repeated or old beat is a defect', () => {
    const { defects, see } = watch();
    for (const line of ['hello', beat(7), beat(8), beat(10), beat(10), beat(3)]) see('source', line);
    expect(defects).toEqual(['heartbeat 10 after 8', 'heartbeat 10 after 10', 'heartbeat 3 after 10']);
  });

  test('a defect that the guest reports is one here', () => {
    const { defects, see } = watch();
    see(
      'destination',
      '[guest] defect kind=stale vcpu=1 gpa=0x0000000000524000 offset=0x0000000000000000 expected=0x18 found=0x16',
    );
    expect(defects).toHaveLength(1);
  });

  test('the gap is the longest stall told by the first two beats after the move', () => {
    const { beats, see } = watch();
    see('source', beat(1, 900));
    beats.expectGapAt('destination');
    see('source', beat(2, 800));
    see('destination', beat(3, 5));
    expect(beats.gapMs).toBeUndefined();
    see('destination', beat(4, 120));
    see('destination', beat(5, 700));
    expect(beats.gapMs).toBe(120);
  });

  test('waiting ends at the beat, after the time, or when aborted', async () => {
    const { beats, see } = watch();
    const never = new AbortController();
    const third = beats.until(({ count }) => count === 3, 5000, never.signal);
    for (const count of [1, 2, 3]) see('source', beat(count));
    await expect(third).resolves.toBe(true);
    await expect(beats.until(() => true, 5, never.signal)).resolves.toBe(false);
    await expect(beats.until(() => true, 5000, AbortSignal.abort())).resolves.toBe(false);
  });
});
