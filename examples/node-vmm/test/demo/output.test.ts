import { describe, expect, test } from '@jest/globals';
import { liveOutput, wantsColour } from '../../dist/demo/view/output.js';
import { syntheticRun } from './synthetic-run.js';

/** A terminal of a size that keeps what is written. */
function terminal(
  columns: number,
  rows: number,
): { readonly stream: NodeJS.WriteStream; readonly written: () => string } {
  let written = '';
  const write = (text: string): boolean => {
    written += text;
    return true;
  };
  const stream = { columns, rows, isTTY: true, write, on: () => stream, off: () => stream, once: () => stream };
  return { stream: stream as unknown as NodeJS.WriteStream, written: () => written };
}

/** The sequences that set colours and weights (ECMA-48, SGR). */
// biome-ignore lint/suspicious/noControlCharactersInRegex: that is what a terminal is told.
const COLOUR = /\x1b\[[\d;]*m/g;

function wholeRun(columns: number, rows: number, colour: boolean): { readonly all: string; readonly last: string } {
  const { stream, written } = terminal(columns, rows);
  const output = liveOutput(stream, () => 0, colour);
  for (const event of syntheticRun()) output.show(event);
  const before = written().length;
  output.end();
  return { all: written(), last: written().slice(before).replaceAll(COLOUR, '') };
}

describe('the live picture', () => {
  test('is there at once, before any event', () => {
    const { stream, written } = terminal(80, 24);
    const output = liveOutput(stream, () => 0, true);
    expect(written().replaceAll(COLOUR, '')).toContain('godwit live migration');
    output.end();
  });

  test('has colours, or none at all', () => {
    expect(wholeRun(80, 24, true).all).toMatch(COLOUR);
    expect(wholeRun(80, 24, false).all).not.toMatch(COLOUR);
  });

  test('ends with the result and the crossing on one screen of 80 by 24', () => {
    const { last } = wholeRun(80, 24, false);
    const lines = last.slice(last.indexOf('godwit live')).trimEnd().split('\n');
    expect(lines.length).toBeLessThan(24);
    expect(lines[0]).toMatch(/^godwit live migration/);
    for (const part of ['▌', 'stood still for', '▐', '✓ verified', 'together', '--postcopy'])
      expect(last).toContain(part);
  });

  test('on a small screen the result is whole, wrapped, below a picture that may scroll away', () => {
    const { last } = wholeRun(40, 16, false);
    const words = last.replaceAll(/\s+/g, ' ');
    expect(words).toContain('49,500 pages compared');
    expect(words).toMatch(/hosts 38\.2 ms \+ comparison 412 ms ≈ guest's own clock 455 ms/);
    expect(words).toContain('messages to and fro');
    expect(words).toContain('npm run demo -- --postcopy npm run demo -- --record a.godwit');
    // No line of the result is cut off.
    expect(last.replace(/… \d+ more/, '')).not.toContain('…');
  });
});

test('NO_COLOR and --no-color', () => {
  expect(wantsColour(true, {})).toBe(true);
  expect(wantsColour(true, { NO_COLOR: '' })).toBe(true);
  expect(wantsColour(true, { NO_COLOR: '1' })).toBe(false);
  expect(wantsColour(false, {})).toBe(false);
});
