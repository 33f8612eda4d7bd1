import type { Survivors } from './survivors.js';

/** Of packages/core/src/sink. */
export const SINK: readonly Survivors[] = [
  {
    file: 'sink/choose-sink.ts',
    why: 'behind the end of the run nothing is appended for no pages: the search for a clean page is only spared',
    mutants: ['SinkChoice.targets: break; removed'],
  },
];
