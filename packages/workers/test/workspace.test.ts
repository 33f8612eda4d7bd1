import { expect, test } from '@jest/globals';

test('the package imports by its own name', async () => {
  const name = '@godwit/workers';
  await expect(import(name)).resolves.toBeDefined();
});
