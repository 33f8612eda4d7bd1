import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';

/** A file of the page. */
export interface Asset {
  readonly contentType: string;
  readonly body: string;
}

/**
 * The modules of the page, each after those that it imports. A browser loads the compiled modules one by one; a report has all of them
 * in one scope, in this order.
 */
export const PAGE_MODULES = [
  'model/quantity.js',
  'model/model-patch.js',
  'page/dom.js',
  'page/colors.js',
  'page/chart.js',
  'page/words.js',
  'page/hosts.js',
  'page/figures.js',
  'page/charts.js',
  'page/downtime-table.js',
  'page/round-table.js',
  'page/state-view.js',
  'page/destination-view.js',
  'page/log-view.js',
  'page/view.js',
  'page/main.js',
] as const;

const JAVASCRIPT = 'text/javascript; charset=utf-8';
const CSS = 'text/css; charset=utf-8';

/** The files of the served page, by path. They are read at the first call. */
export function servedAssets(): ReadonlyMap<string, Asset> {
  served ??= new Map([
    ['/', { contentType: 'text/html; charset=utf-8', body: pageHtml() }],
    ['/page.css', { contentType: CSS, body: pageCss() }],
    ['/uplot.css', { contentType: CSS, body: uplot('uPlot.min.css') }],
    ['/uplot.js', { contentType: JAVASCRIPT, body: uplot('uPlot.iife.min.js') }],
    ...PAGE_MODULES.map((path) => [`/${path}`, { contentType: JAVASCRIPT, body: pageModule(path) }] as const),
  ]);
  return served;
}

let served: ReadonlyMap<string, Asset> | undefined;

/** The page's markup, with links to its parts. */
export function pageHtml(): string {
  return source('page.html');
}

/** The page's style sheet; the rules for narrow screens come last, since they override the others. */
export function pageCss(): string {
  return ['base.css', 'panels.css', 'narrow.css'].map(source).join('');
}

/** A module of the page, without the comment that names its source map. */
export function pageModule(path: (typeof PAGE_MODULES)[number]): string {
  return readFileSync(new URL(`../${path}`, import.meta.url), 'utf8').replace(/\n\/\/# sourceMappingURL=.*\n?$/, '\n');
}

/** A file of uPlot, which draws the charts, with its licence before it. */
export function uplot(name: string): string {
  const { resolve } = createRequire(import.meta.url);
  const licence = readFileSync(resolve('uplot/LICENSE'), 'utf8').trim();
  return `/*\n${licence}\n*/\n${readFileSync(resolve(`uplot/dist/${name}`), 'utf8')}`;
}

/** Reads a file that is not compiled, from the source folder. */
function source(name: string): string {
  return readFileSync(new URL(`../../src/page/${name}`, import.meta.url), 'utf8');
}
