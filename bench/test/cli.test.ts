import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { expect, test } from '@jest/globals';

const CLI = fileURLToPath(new URL('../cli.js', import.meta.url));

test.each([
  [['qemu', 'sweep', 'xbzrel'], /'xbzrel' is invalid.*Allowed choices are bulk, .*; did you mean "xbzrle"\?/],
  [['profile', 'swep'], /'swep' is invalid.*; did you mean "sweep"\?/],
  [['qemu', 'everything'], /'everything' is invalid.*Allowed choices are bulk, .*\.\n/],
  [['bulk', '--size', 'much'], /'much' is invalid\. It is a whole number from 1\./],
  [['bukl'], /unknown command 'bukl'[\s\S]*Did you mean bulk\?/],
])('%j is refused, with what there is', (args, told) => {
  const { status, stdout, stderr } = spawnSync(process.execPath, [CLI, ...args], { encoding: 'utf8' });
  expect([status, stdout]).toEqual([1, '']);
  expect(stderr).toMatch(told);
});
