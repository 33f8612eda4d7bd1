import type { Call, ThreadProfile } from './cpu-profile.js';

const WIDTH = 1400;
const ROW = 17;
const TITLE = 34;
/** Narrower calls are left out, since they are invisible. */
const LEAST_WIDTH = 0.4;
/** The smallest width of a box with text, which fits a few letters. */
const LEAST_TEXT = 24;
const LETTER = 6.6;

/**
 * Draws a flame graph as SVG, without scripts: a box for each call, as wide as its time, above its caller's; the tooltip has name, place
 * and time. The outermost calls are at the bottom.
 */
export function flameGraph(title: string, { root }: ThreadProfile): string {
  const depth = depthOf(root, root.ms);
  const height = TITLE + (depth + 1) * ROW + 8;
  const boxes: string[] = [];
  const draw = (call: Call, x: number, level: number): void => {
    const width = (call.ms / root.ms) * WIDTH;
    if (width < LEAST_WIDTH) return;
    boxes.push(box(call, x, height - 8 - (level + 1) * ROW, width, root.ms));
    let at = x;
    for (const callee of [...call.callees.values()].sort((a, b) => b.ms - a.ms)) {
      draw(callee, at, level + 1);
      at += (callee.ms / root.ms) * WIDTH;
    }
  };
  if (root.ms > 0) draw(root, 0, 0);
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${height}" font-family="monospace" font-size="11">`,
    `<rect width="100%" height="100%" fill="#ffffff"/>`,
    `<text x="8" y="20" font-size="14">${escaped(title)}: ${root.ms.toFixed(0)} ms</text>`,
    ...boxes,
    '</svg>',
    '',
  ].join('\n');
}

function depthOf(call: Call, allMs: number): number {
  if ((call.ms / allMs) * WIDTH < LEAST_WIDTH) return 0;
  return 1 + Math.max(0, ...Array.from(call.callees.values(), (callee) => depthOf(callee, allMs)));
}

function box({ name, place, ms }: Call, x: number, y: number, width: number, allMs: number): string {
  const share = `${ms.toFixed(1)} ms, ${((ms / allMs) * 100).toFixed(1)} %`;
  const letters = Math.floor((width - 4) / LETTER);
  const text =
    width < LEAST_TEXT ? '' : `<text x="${fixed(x + 3)}" y="${y + 12}">${escaped(name.slice(0, letters))}</text>`;
  return (
    `<g><title>${escaped(`${name} ${place}`.trim())}: ${share}</title>` +
    `<rect x="${fixed(x)}" y="${y}" width="${fixed(width)}" height="${ROW - 1}" fill="${colorOf(name, place)}"/>${text}</g>`
  );
}

/**
 * The colour of a call: grey for frames that are no JavaScript, warm for Godwit's own code, cool for Node's and dependencies'. The shade
 * depends on the name.
 */
function colorOf(name: string, place: string): string {
  let shade = 0;
  for (const letter of name) shade = (shade * 31 + letter.charCodeAt(0)) % 40;
  if (place === '') return `hsl(0, 0%, ${70 + (shade % 20)}%)`;
  const own = !place.startsWith('internal/') && !place.startsWith('node:');
  return own ? `hsl(${10 + shade}, 85%, 68%)` : `hsl(${190 + shade}, 45%, 75%)`;
}

function fixed(value: number): string {
  return value.toFixed(1);
}

function escaped(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
}
