import { bytesText, countText, msText, rangeText, rateText, shareText } from '@godwit/observe/model';
import { expect, test } from '@jest/globals';

test.each([
  [msText(0), '0 ms'],
  [msText(0.424), '0.42 ms'],
  [msText(9.996), '10.0 ms'],
  [msText(87.4), '87.4 ms'],
  [msText(999.4), '999 ms'],
  [msText(999.6), '1.00 s'],
  [msText(99_940), '99.9 s'],
  [msText(185_000), '3 min 05 s'],
  [msText(3_599_600), '1 h 00 min'],
  [msText(7_620_000), '2 h 07 min'],
  [msText(null), '–'],
  [bytesText(0), '0 B'],
  [bytesText(999), '999 B'],
  [bytesText(1000), '0.98 KiB'],
  [bytesText(1.5 * 2 ** 30), '1.50 GiB'],
  [bytesText(2 ** 54), '16.0 PiB'],
  [rateText(100 * 2 ** 20), '100 MiB/s'],
  [countText(1_234_567), '1,234,567'],
  [shareText(0), '0 %'],
  [shareText(0.042), '4.2 %'],
  [shareText(0.5), '50 %'],
  [rangeText([80, 120]), '80.0 to 120 ms'],
  [rangeText([800, 1200]), '800 ms to 1.20 s'],
  [rangeText([5, null]), 'at least 5.00 ms'],
  [rangeText(null), '–'],
])('%s', (text, expected) => {
  expect(text).toBe(expected);
});
