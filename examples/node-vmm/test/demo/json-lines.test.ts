import { describe, expect, test } from '@jest/globals';
import { jsonLine } from '../../dist/demo/json-lines.js';
import { syntheticRun } from './synthetic-run.js';

describe('--json', () => {
  test('every event is one line, an object whose first key is `event`', () => {
    for (const event of syntheticRun()) {
      const line = jsonLine(event);
      expect(line).not.toContain('\n');
      expect(Object.keys(JSON.parse(line))[0]).toBe('event');
    }
  });

  test('the last line begins with the documented keys in the documented order', () => {
    const last = syntheticRun().at(-1);
    if (last === undefined) throw new Error('empty run');
    expect(jsonLine(last)).toMatch(
      /^\{"event":"completed","verified":true,"totalMs":4120,"downtimeMs":38\.2,"verifyMs":412,"guestGapMs":455\.2,"rounds":7,"wireBytes":\d+[,}]/,
    );
  });

  test('a failure is its code and message, nothing else', () => {
    expect(jsonLine({ event: 'failed', code: 'GODWIT_LINK_LOST', message: 'gone', atMs: 5 })).toBe(
      '{"event":"failed","code":"GODWIT_LINK_LOST","message":"gone"}',
    );
  });

  test('a downtime without bound is null: JSON has no infinity', () => {
    const round = syntheticRun().find((event) => event.event === 'round');
    if (round?.event !== 'round') throw new Error('no round');
    expect(JSON.parse(jsonLine({ ...round, predictedDowntimeMs: Number.POSITIVE_INFINITY }))).toMatchObject({
      predictedDowntimeMs: null,
    });
  });
});
