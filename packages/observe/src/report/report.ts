import type { MigrationModel } from '../model/migration-model.js';
import { PAGE_MODULES, pageCss, pageHtml, pageModule, uplot } from '../serve/assets.js';

/** What is inside may run, and reaches nobody. */
const POLICY =
  "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'\">";

/**
 * One HTML file that shows a migration, with its data and all that draws it inside: it needs no network and no server. What it shows may
 * come from a peer; it is data there, never markup.
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

/** The modules of the page in one scope: they import each other only, and no name is in two of them. */
export function pageScript(): string {
  return PAGE_MODULES.map((path) => withoutModules(pageModule(path))).join('');
}

function withoutModules(source: string): string {
  return source
    .replace(/^import [^;]*;\n/gm, '')
    .replace(/^export \{[^}]*\};\n/gm, '')
    .replace(/^export (?=(?:async )?function|const|let|class)/gm, '');
}

/** JSON that ends no script element: `<` can be written otherwise in any string. */
function embedded(json: string): string {
  return json.replace(/</g, '\\u003c');
}

/** Replaces what stands between the comments `NAME` and `/NAME`. */
function replaced(html: string, name: string, by: string): string {
  const [from, to] = [`<!--${name}-->`, `<!--/${name}-->`];
  return html.slice(0, html.indexOf(from)) + by + html.slice(html.indexOf(to) + to.length);
}
