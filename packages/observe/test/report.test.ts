import { readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { observe, report } from '@godwit/observe';
import { expect, test } from '@jest/globals';
import { closingAfterEach } from './close-later.js';
import { ToyMigration } from './toy-migration.js';

const closeLater = closingAfterEach();

/** The folder of the compiled package. */
const DIST = dirname(fileURLToPath(import.meta.resolve('@godwit/observe')));

async function finished(title: string) {
  const toy = closeLater(new ToyMigration());
  const observation = closeLater(observe(toy.migration, { incoming: toy.incoming, title }));
  await toy.over();
  return observation.model();
}

/** The parts of a report: its data, and its module. */
function partsOf(html: string): { readonly data: string; readonly script: string } {
  const [, data = ''] = /<script type="application\/json" id="model">(.*?)<\/script>/s.exec(html) ?? [];
  const [, script = ''] = /<script type="module">\n(.*?)<\/script>/s.exec(html) ?? [];
  return { data, script };
}

test('a report has its data inside, whatever a peer has written into them', async () => {
  const model = await finished('</script><script>alert(1)</script><!--');
  const html = report(model);
  expect(JSON.parse(partsOf(html).data)).toEqual(model);
  expect(html).not.toContain('alert(1)</script>');
  expect(html.match(/<script/g)).toHaveLength(3);
});

test('a report loads nothing', async () => {
  const html = report(await finished('a test'));
  const { script } = partsOf(html);
  expect(html.replace(script, '')).not.toMatch(/(src|href)="(?!data:|#)/);
  expect(script).not.toMatch(/^(import|export) /m);
  expect(html).toContain(`content="default-src 'none'; script-src 'unsafe-inline'`);
  // The licence of uPlot is in the report, since its code is.
  expect(html).toContain('The MIT License (MIT)');
  expect(html.length).toBeLessThan(400_000);
});

test('its modules are in one scope: all that are imported are there, before they are used, and no name is there twice', async () => {
  const { script } = partsOf(report(await finished('a test')));
  const names = [...script.matchAll(/^(?:async )?(?:function\*?|const|let|class) (\w+)/gm)].map(([, name]) => name);
  expect(names.length).toBeGreaterThan(60);
  expect(names).toEqual([...new Set(names)]);
  const seen = new Set<string>();
  const visit = (path: string) => {
    if (seen.has(path)) return;
    const text = readFileSync(path, 'utf8');
    for (const [, from = ''] of text.matchAll(/^import [^;]*from '([^']+)';$/gm)) {
      expect([relative(DIST, path), from.startsWith('.')]).toEqual([relative(DIST, path), true]);
      visit(join(dirname(path), from));
    }
    seen.add(path);
    for (const [, name = ''] of text.matchAll(/^export (?:async )?(?:function|const|class) (\w+)/gm)) {
      expect(names).toContain(name);
    }
  };
  visit(join(DIST, 'page', 'main.js'));
  expect(seen.size).toBeGreaterThan(12);
});
