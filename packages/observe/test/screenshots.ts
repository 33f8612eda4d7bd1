/** Takes the pictures of the page in docs/page: a real migration, watched by a real browser. `npm run screenshots`. */
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { observe } from '@godwit/observe';
import type { Browser, Page } from 'playwright-core';
import { chromiumPath, launchBrowser } from './browser.js';
import { ToyMigration } from './toy-migration.js';

const FOLDER = process.argv[2] ?? join(import.meta.dirname, '..', '..', '..', 'docs', 'page');
const MIB = 2 ** 20;

const path = chromiumPath();
if (path === undefined) throw new Error('there is no Chromium: apt-get install chromium');
await mkdir(FOLDER, { recursive: true });
const browser = await launchBrowser(path);
try {
  await takeAll(browser);
} finally {
  await browser.close();
}

async function takeAll(browser: Browser): Promise<void> {
  const views = await Promise.all(
    [1280, 400].flatMap((width) =>
      (['light', 'dark'] as const).map(async (colorScheme) => {
        const view = await browser.newPage({ viewport: { width, height: width === 1280 ? 1000 : 860 }, colorScheme });
        return { view, name: `${width}-${colorScheme}` };
      }),
    ),
  );
  const toy = new ToyMigration({
    ramBytes: 48 * MIB,
    workingSetBytes: 20 * MIB,
    dirtyPagesPerSecond: 2400,
    bytesPerSecond: 24 * MIB,
    latencyMs: 1,
    migrate: { downtimeLimitMs: 120, bandwidthLimit: 10 * MIB, policy: 'balanced' },
  });
  const observation = observe(toy.migration, { incoming: toy.incoming, title: 'web-7 to rack 12' });
  const page = await observation.serve();
  await Promise.all(views.map(({ view }) => view.goto(page.url)));
  // Waits until the middle of a later round.
  await new Promise<void>((resolve) => {
    toy.migration.subscribe((event) => event.type === 'round' && event.round.round === 4 && resolve());
  });
  await sleep(250);
  // What is drawn stays, however long the pictures take.
  await Promise.all(
    views.map(({ view }) =>
      view.evaluate(() => {
        globalThis.requestAnimationFrame = () => 0;
      }),
    ),
  );
  await Promise.all(views.map(({ view, name }) => picture(view, `during-${name}`)));
  await toy.over();
  await Promise.all(views.map(({ view }) => view.reload()));
  await sleep(500);
  await Promise.all(views.map(({ view, name }) => picture(view, `after-${name}`)));
  await observation.close();
}

/** WebP, which Playwright itself does not take: a whole page in less than 100 KB. */
async function picture(view: Page, name: string): Promise<void> {
  const whole = name.startsWith('after');
  const session = await view.context().newCDPSession(view);
  const { cssContentSize } = await session.send('Page.getLayoutMetrics');
  const { width } = cssContentSize;
  // Down to the downtime's terms: what follows is tables and text.
  const height = whole ? (width > 800 ? 1380 : 1900) : (view.viewportSize()?.height ?? cssContentSize.height);
  const { data } = await session.send('Page.captureScreenshot', {
    format: 'webp',
    quality: 60,
    captureBeyondViewport: whole,
    clip: { x: 0, y: 0, width, height, scale: 1 },
  });
  await writeFile(join(FOLDER, `${name}.webp`), Buffer.from(data, 'base64'));
  if (process.env['PNG'] !== undefined) await view.screenshot({ path: join(FOLDER, `${name}.png`), fullPage: whole });
}
