/**
 * Draws the README's picture from a recorded run:
 *
 *     npm run demo -- --json > run.jsonl && node examples/node-vmm/dist/demo/picture.js < run.jsonl > docs/demo.svg
 */
import { createInterface } from 'node:readline';
import type { TimedEvent } from './demo-event.js';
import { render } from './view/render.js';
import { svg } from './view/svg.js';
import { EMPTY_VIEW, reduce } from './view/view-state.js';

const COLUMNS = 96;
const ROWS = 42;

let view = EMPTY_VIEW;
let atMs = 0;
for await (const line of createInterface({ input: process.stdin })) {
  // npm prints the script's name first, which is no event.
  if (!line.startsWith('{')) continue;
  // The lines are not checked, since json-lines.ts of the same version has written them.
  const event = { atMs, ...(JSON.parse(line) as object) } as TimedEvent;
  atMs = event.atMs;
  view = reduce(view, event);
}
process.stdout.write(
  svg(render(view, COLUMNS, ROWS, atMs), COLUMNS, 'npm run demo: a KVM guest moves between two processes'),
);
