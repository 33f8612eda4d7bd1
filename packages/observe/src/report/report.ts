import type { MigrationModel } from '../model/migration-model.js';
import { PAGE_MODULES, pageCss, pageHtml, pageModule, uplot } from '../serve/assets.js';

/** The file's own scripts and styles may run, and nothing may be loaded or sent. */
const POLICY =
  "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'\">";

/**
 * One HTML file that shows a migration. It contains the data and the code that draws them, and needs no network and no server. The data
 * may come from a peer; the page treats them as text, never as markup.
 *
 * @example
 * await writeFile('migration.html', report(observation.model()));
 */
export function report(model: MigrationModel): string {
  const data = `<script type="application/json" id="model">${embedded(JSON.stringify(model))}</script>`;
  const style = `<style>${uplot('uPlot.min.css')}${pageCss()}</style>`;
  const script = `<script>${uplot('uPlot.iife.min.js')}</script>\n<script type="module">\n${pageScript()}</script>`;
  return replaced(replaced(pageHtml(), 'style', `${POLICY}\n${style}`), 'script', `${data}\n${script}`);
}

/** The modules of the page in one scope. This works since the modules import only each other, and no two of them use the same name. */
export function pageScript(): string {
  return PAGE_MODULES.map((path) => withoutModules(pageModule(path))).join('');
}

function withoutModules(source: string): string {
  return source
    .replace(/^import [^;]*;\n/gm, '')
    .replace(/^export \{[^}]*\};\n/gm, '')
    .replace(/^export (?=(?:async )?function|const|let|class)/gm, '');
}

/** JSON that cannot end a script element: each `<`, which is always within a string, is written as an escape. */
function embedded(json: string): string {
  return json.replace(/</g, '\\u003c');
}

/** Replaces the text between the comments `NAME` and `/NAME`. */
function replaced(html: string, name: string, by: string): string {
  const [from, to] = [`<!--${name}-->`, `<!--/${name}-->`];
  return html.slice(0, html.indexOf(from)) + by + html.slice(html.indexOf(to) + to.length);
}
