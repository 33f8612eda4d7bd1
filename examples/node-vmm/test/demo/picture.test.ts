import { expect, test } from '@jest/globals';
import { formatBytes, formatMs, parseBytes } from '../../dist/demo/quantity.js';
import { render } from '../../dist/demo/view/render.js';
import { span } from '../../dist/demo/view/styled-line.js';
import { svg } from '../../dist/demo/view/svg.js';
import { EMPTY_VIEW, reduce } from '../../dist/demo/view/view-state.js';
import { syntheticRun } from './synthetic-run.js';

test('sizes as people type them', () => {
  expect(['512M', '6G', '1.5GiB', '100M/s', '65536', '1k'].map(parseBytes)).toEqual([
    512 * 2 ** 20,
    6 * 2 ** 30,
    1.5 * 2 ** 30,
    100 * 2 ** 20,
    65_536,
    1024,
  ]);
  expect(['', 'lots', '-1M', '1 2', '5X'].map(parseBytes)).toEqual(Array(5).fill(undefined));
});

test('sizes and times as people read them', () => {
  expect([0, 1023, 4096, 1.5 * 2 ** 20, 6 * 2 ** 30].map(formatBytes)).toEqual([
    '0 B',
    '1.00 KiB',
    '4 KiB',
    '1.50 MiB',
    '6 GiB',
  ]);
  expect([0.314, 31.44, 455, 1234, 125_000, Number.POSITIVE_INFINITY].map(formatMs)).toEqual([
    '0.31 ms',
    '31.4 ms',
    '455 ms',
    '1.2 s',
    '2 min 5 s',
    'unbounded',
  ]);
});

test('the picture: bars are rectangles, words are text, nothing of the guest is markup', () => {
  const picture = svg([[span('round 1 ', 'dim'), span('████▌', 'raw'), span(' <b>&', 'plain')]], 40, 'a "run"');
  expect(picture).toMatch(/^<svg [^>]*aria-label="a &#34;run&#34;">/);
  expect(picture).toContain('>round 1</text>');
  expect(picture).toContain('>&#60;b&#62;&#38;</text>');
  expect(picture.match(/fill="#5b93f5"/g)).toHaveLength(2);
});

test('words that stand apart are elements of their own, each in its column', () => {
  const picture = svg([[span('a b   12 ms', 'dim')]], 40, 'run');
  const texts = [...picture.matchAll(/<text x="([\d.]+)"[^>]*>([^<]*)</g)].map(([, x, words]) => [Number(x), words]);
  expect(texts.map(([, words]) => words)).toEqual(['a b', '12 ms']);
  expect(Number(texts[1]?.[0]) - Number(texts[0]?.[0])).toBeCloseTo(6 * 8.4, 1);
});

test('a whole run becomes a picture without block characters left in it', () => {
  const view = syntheticRun().reduce(reduce, EMPTY_VIEW);
  expect(svg(render(view, 96, 32, 0), 96, 'run')).not.toMatch(/[\u2580-\u259f━─┃]/);
});
