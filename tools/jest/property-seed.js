import { readFile } from 'node:fs/promises';

/*
 * With PROPERTY_SEED, which CI takes from the commit's name, property tests draw the same inputs each time; without it they draw new ones,
 * and a failure prints its seed. fast-check is loaded only for files that use it.
 */
const seed = process.env['PROPERTY_SEED'];
const { testPath } = /** @type {{ testPath?: string }} */ (globalThis);
if (seed !== undefined && testPath !== undefined && (await readFile(testPath, 'utf8')).includes("from 'fast-check'")) {
  const { default: fc } = await import('fast-check');
  fc.configureGlobal({ seed: Number(seed) });
}
