import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import type { MigrationEvent } from '@godwit/core';
import { observe, report } from '@godwit/observe';
import { bytesText, countText, msText, rangeText, rateText } from '@godwit/observe/model';
import { afterAll, beforeAll, describe, expect, jest, test } from '@jest/globals';
import axe from 'axe-core';
import type { Browser, BrowserContextOptions, Page } from 'playwright-core';
import { chromiumPath, launchBrowser } from './browser.js';
import { closingAfterEach } from './close-later.js';
import { BACKGROUND_EVENTS, DESTINATION_EVENTS, SOURCE_EVENTS, scripted } from './scripted.js';
import { ToyMigration } from './toy-migration.js';

// On a busy machine a browser is slow.
jest.setTimeout(180_000);
const WAIT_MS = 120_000;

const path = chromiumPath();
const closeLater = closingAfterEach();
const describeInBrowser = path === undefined ? describe.skip : describe;

describeInBrowser(`the page in a browser${path === undefined ? ' (skipped: there is no Chromium)' : ''}`, () => {
  let browser: Browser;
  beforeAll(async () => {
    browser = await launchBrowser(path ?? '');
  }, WAIT_MS);
  afterAll(() => browser.close());

  /** Opens a page, and collects the problems that its browser reports: refused scripts, errors, failed requests. */
  async function opened(url: string, options: BrowserContextOptions = {}) {
    const context = await browser.newContext(options);
    const page = await context.newPage();
    const complaints: string[] = [];
    page.on('console', (message) => {
      if (['error', 'warning'].includes(message.type())) complaints.push(message.text());
    });
    page.on('pageerror', (error) => complaints.push(String(error)));
    await page.goto(url, { timeout: WAIT_MS });
    closeLater({ [Symbol.asyncDispose]: () => context.close() });
    return { page, complaints };
  }

  /** A migration that is held in `pre-switchover`, so that the values of status() stay the same while a test reads the page. */
  async function held() {
    const toy = closeLater(
      new ToyMigration({
        ramBytes: 8 * 2 ** 20,
        dirtyPagesPerSecond: 400,
        bytesPerSecond: 24 * 2 ** 20,
        migrate: { pauseBeforeSwitchover: true, bandwidthLimit: 12 * 2 ** 20 },
      }),
    );
    const observation = closeLater(observe(toy.migration, { incoming: toy.incoming }));
    const server = await observation.serve();
    return { toy, observation, server };
  }

  const stateIs = (page: Page, state: string) =>
    page.waitForFunction((text) => document.getElementById('state')?.textContent?.startsWith(text), state, {
      timeout: WAIT_MS,
    });

  const figures = (page: Page) =>
    page.$$eval('.figure:not([hidden])', (all) =>
      Object.fromEntries(
        all.map((one) => [
          one.getAttribute('data-figure') ?? '',
          [one.querySelector('.value')?.textContent, one.querySelector('.note')?.textContent],
        ]),
      ),
    );

  const axeErrors = async (page: Page) => {
    await page.evaluate(axe.source);
    const { violations } = await page.evaluate(() =>
      (globalThis as unknown as { axe: typeof axe }).axe.run(document, { resultTypes: ['violations'] }),
    );
    return violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(' ')}`);
  };

  test('shows the numbers of status(), while the migration is held and after it', async () => {
    const { toy, observation, server } = await held();
    const { page, complaints } = await opened(server.url);
    await stateIs(page, 'pre-switchover');
    const { progress, attempt, lastRound, downtimeLimitMs, bandwidthLimit } = toy.migration.status();
    // The rate is that of the last second, and goes to 0.
    await page.waitForFunction(() => document.querySelector('[data-figure=rate] .value')?.textContent === '0 B/s');
    const pageSize = toy.vm.memory.pageSize;
    const range = rangeText(lastRound?.predictedDowntimeRangeMs ?? null);
    expect(await figures(page)).toMatchObject({
      downtime: [msText(progress.predictedDowntimeMs ?? null), `${range}, limit ${msText(downtimeLimitMs)}`],
      wire: [bytesText(progress.wireBytes), `of ${bytesText(progress.rawBytes)} of memory`],
      rate: ['0 B/s', `limit ${rateText(bandwidthLimit)}`],
      dirty: [
        rateText(progress.dirtyPagesPerSecond * pageSize),
        `${countText(progress.dirtyPagesPerSecond)} pages a second`,
      ],
      rounds: [countText(lastRound?.round ?? 0), `attempt ${attempt} to switch over`],
    });
    expect(await page.textContent('.place')).toBe('The guest is paused between the two');

    toy.migration.proceed();
    const summary = await toy.migration.result;
    await toy.over();
    await stateIs(page, 'completed');
    await page.waitForFunction(() => document.getElementById('feed')?.textContent === 'finished');
    expect(await figures(page)).toMatchObject({
      elapsed: [msText(summary.totalMs), `${countText(summary.verifiedPages)} pages compared: equal`],
      downtime: [msText(summary.downtimeMs), `expected ${msText(summary.predictedDowntimeMs)}, limit ${msText(300)}`],
      wire: [bytesText(summary.wireBytes), `of ${bytesText(summary.rawBytes)} of memory`],
      rounds: [countText(summary.rounds.length), 'attempt 1 to switch over'],
    });
    const terms = await page.$$eval('.terms tbody tr', (rows) =>
      rows.map((row) => row.querySelector('.actual')?.textContent),
    );
    expect(terms).toEqual(Object.values(summary.downtime).map(({ actualMs }) => msText(actualMs)));
    expect(await page.textContent('.place')).toBe('The destination owns the guest');
    expect(
      await page.$$eval('.machine:first-child .state.visited, .machine:first-child .state.current', (chips) =>
        chips.map((chip) => chip.getAttribute('data-state')),
      ),
    ).toEqual([...['none', 'setup', 'active', 'pre-switchover', 'device', 'completed']]);
    expect(await page.$$eval('.uplot canvas', (all) => all.length)).toBe(4);
    expect(complaints).toEqual([]);

    // When the observed program ends, the page keeps the last values.
    await observation.close();
    await page.waitForFunction(() => document.getElementById('feed')?.textContent?.includes('the program has ended'));
    expect((await figures(page))['wire']?.[0]).toBe(bytesText(summary.wireBytes));
  });

  test.each([
    ['light', 1280],
    ['dark', 400],
  ] as const)(
    'has no error that axe-core finds, %s and %d pixels wide, during and after',
    async (colorScheme, width) => {
      const { toy, server } = await held();
      const { page } = await opened(server.url, { colorScheme, viewport: { width, height: 800 }, bypassCSP: true });
      await stateIs(page, 'pre-switchover');
      expect(await axeErrors(page)).toEqual([]);
      toy.migration.proceed();
      await toy.over();
      await stateIs(page, 'completed');
      expect(await axeErrors(page)).toEqual([]);
      // Neither the page nor the table of terms is wider than the screen.
      expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBeLessThanOrEqual(width);
      const terms = await page.$eval('#terms .scroll', (box) => box.scrollWidth - box.clientWidth);
      expect(terms).toBe(0);
    },
  );

  test('can be used by keyboard: past the heading, and from point to point of a chart', async () => {
    const { toy, server } = await held();
    const { page } = await opened(server.url);
    await stateIs(page, 'pre-switchover');
    toy.migration.proceed();
    await toy.over();
    await stateIs(page, 'completed');
    await page.keyboard.press('Tab');
    expect(await page.evaluate(() => document.activeElement?.textContent)).toBe('Skip to the figures');
    await page.keyboard.press('Enter');
    expect(await page.evaluate(() => document.activeElement?.id)).toBe('main');
    await page.focus('#rounds-chart .chart');
    await page.keyboard.press('Home');
    const first = toy.migration.status().lastRound === undefined ? '' : bytesText(8 * 2 ** 20);
    expect(await page.textContent('#rounds-chart [role=status]')).toContain(`1: Sent with the guest running ${first}`);
    await page.keyboard.press('ArrowRight');
    expect(await page.textContent('#rounds-chart [role=status]')).toMatch(/^2: /);
  });

  test('is a report too: one file, without a server, with the same numbers', async () => {
    const { toy, observation, server } = await held();
    const { page: live } = await opened(server.url);
    await stateIs(live, 'pre-switchover');
    toy.migration.proceed();
    await toy.over();
    await stateIs(live, 'completed');
    await live.waitForFunction(() => document.getElementById('feed')?.textContent === 'finished');
    const expected = await figures(live);
    const folder = mkdtempSync(join(tmpdir(), 'godwit-report-'));
    try {
      const file = join(folder, 'migration.html');
      writeFileSync(file, report(observation.model()));
      const { page, complaints } = await opened(pathToFileURL(file).href, { offline: true });
      await stateIs(page, 'completed');
      expect(await figures(page)).toEqual(expected);
      expect(await page.$$eval('.uplot canvas', (all) => all.length)).toBe(4);
      expect(await page.textContent('#feed')).toBe('saved report');
      expect(complaints).toEqual([]);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  test('shows the page faults of a guest whose memory follows it', async () => {
    const incoming = scripted(DESTINATION_EVENTS.filter(({ type }) => type !== 'failed'));
    const postcopy = { pages: 100, ms: 700, lostLinks: 1 };
    const source = SOURCE_EVENTS.map((event) =>
      event.type === 'completed' ? { ...event, summary: { ...event.summary, postcopy } } : event,
    );
    const observation = closeLater(observe(scripted(source), { incoming }));
    const server = await observation.serve();
    const { page, complaints } = await opened(server.url, { bypassCSP: true });
    await page.waitForSelector('.latency');
    expect((await figures(page))['postcopy']).toEqual(['100 pages', 'in 700 ms, the link was lost once']);
    const text = (await page.textContent('#destination')) ?? '';
    expect(text).toContain('Pages missing7 of 100');
    expect(text).toContain('Page faults40, 3 a second');
    // 2^3 to 2^4 us: thirty of them.
    const rows = await page.$$eval('.latency tbody tr', (all) => all.map((row) => row.textContent));
    expect(rows).toEqual(['up to 8 µs3', 'up to 16 µs30', 'up to 32 µs7']);
    expect(await page.$eval('#destination progress', (bar) => (bar as HTMLProgressElement).value)).toBe(0.93);
    expect(await axeErrors(page)).toEqual([]);
    expect(complaints).toEqual([]);
  });

  test('says of a background snapshot that the guest stays, and how it was saved', async () => {
    const observation = closeLater(observe(scripted(BACKGROUND_EVENTS)));
    const server = await observation.serve();
    const { page, complaints } = await opened(server.url, { bypassCSP: true });
    await stateIs(page, 'completed: done; the guest stays at the source');
    expect(await page.textContent('.place')).toBe('The source owns the guest');
    expect(await figures(page)).toMatchObject({
      downtime: ['21.0 ms', ''],
      background: ['500 pages', 'in 700 ms, 12 waits of the guest, the longest 7 µs'],
    });
    expect(await page.$$eval('.terms .late', (rows) => rows.length)).toBe(0);
    expect(await axeErrors(page)).toEqual([]);
    expect(complaints).toEqual([]);
  });

  test('shows a state that it does not know by its name, and a message as text', async () => {
    const listeners: ((event: MigrationEvent) => void)[] = [];
    const migration = {
      subscribe(next: (event: MigrationEvent) => void) {
        listeners.push(next);
        return { unsubscribe() {} };
      },
    };
    const observation = closeLater(observe(migration, { title: '<b>bold</b>' }));
    const server = await observation.serve();
    const { page, complaints } = await opened(server.url);
    const events = [
      { type: 'state', state: 'postcopy-paused', previous: 'postcopy-active' },
      { type: 'warning', code: 'GODWIT_INTERNAL', message: '<img src=x onerror=alert(1)>' },
    ] as unknown as MigrationEvent[];
    for (const event of events) for (const listener of listeners) listener(event);
    await stateIs(page, 'postcopy-paused');
    expect(await page.textContent('h1')).toBe('<b>bold</b>');
    expect(
      await page.$$eval('.state.current', (chips) => chips.map((chip) => chip.getAttribute('data-state'))),
    ).toContain('postcopy-paused');
    expect(await page.textContent('.log li')).toContain('<img src=x onerror=alert(1)>');
    expect(await page.$('img')).toBeNull();
    expect(complaints).toEqual([]);
  });
});
