import type { MigrationModel } from '../model/migration-model.js';
import { type ModelPatch, patched } from '../model/model-patch.js';
import { MigrationView } from './view.js';

const view = new MigrationView();
const saved = document.getElementById('model');
if (saved !== null) {
  view.feed = 'saved';
  view.show(JSON.parse(saved.textContent ?? 'null') as MigrationModel);
} else {
  let model: MigrationModel | undefined;
  // The browser reconnects by itself, and then gets the whole model.
  const events = new EventSource('/events');
  events.addEventListener('open', () => {
    view.feed = 'live';
  });
  events.addEventListener('error', () => {
    view.feed = 'lost';
  });
  events.addEventListener('message', ({ data }: MessageEvent<string>) => {
    model = patched(model, JSON.parse(data) as ModelPatch);
    view.show(model);
  });
}
