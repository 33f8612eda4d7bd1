import type { Survivors } from './survivors.js';

/** Of packages/core/src/sink. */
export const SINK: readonly Survivors[] = [
  {
    file: 'sink/choose-sink.ts',
    why: 'behind the end of the run nothing is appended for no pages: the search for a clean page is only spared',
    mutants: [
      'SinkChoice.targets: break; removed',
      'SinkChoice.targets: page < end -> <=',
      'SinkChoice.targets: stop === end -> false',
    ],
  },
  {
    file: 'sink/choose-sink.ts',
    why: 'behind the last run there is no number: nothing is appended for it',
    mutants: ['SinkChoice.targets: i < runs.length -> <='],
  },
];
