import type { Frame } from '@godwit/core';
import { RESUMED } from './recording-folder.js';
import { hello, PAGE, type Step, WELCOME } from './scripted-recording.js';

/** Of the two streams beside the control stream the second one is the urgent channel. */
export const FEATURES = ['postcopy', 'bitmap', 'back'];
export const request = (page: number, pages = 1): Step => ['D', 2, { type: 'requestPages', block: 0, page, pages }];
export const answer = (runs: number[], pages: number, round = 0): Step => [
  'S',
  2,
  { type: 'pages', round, block: 0, runs },
  pages * PAGE,
];
const end = (round: number, pages: number): Step[] => [
  ['S', 1, { type: 'roundEnd', round, pages }],
  ['D', 0, { type: 'roundAck', round, pages }],
];

export const UP_TO_RUNNING: readonly Step[] = [
  ['S', 0, hello({ features: FEATURES })],
  ['D', 0, { ...WELCOME, features: FEATURES } as Frame],
  ['S', 1, { type: 'pages', round: 1, block: 0, runs: [0, 20] }, 20 * PAGE],
  ...end(1, 20),
  ['S', 0, { type: 'missing', block: 0, runs: [0, 8] }],
  ['S', 0, { type: 'missing', block: 0, runs: [], firstPage: 32, words: [5] }],
  ['S', 0, { type: 'device', device: 0, sequence: 0, last: true, attempt: 1 }, 23],
  ['S', 0, { type: 'switchover', round: 1, attempt: 1, runState: 'running' }],
  // A device that loads touches a page that is missing.
  request(34),
  answer([34, 1], 1),
  ['D', 0, { type: 'ready', attempt: 1, loadMs: 1.5 }],
  ['S', 0, { type: 'go', attempt: 1 }],
  ['D', 0, { type: 'running', resumeMs: 0.5, sinceReadyMs: 0 }],
];

export const POSTCOPY: readonly Step[] = [
  ...UP_TO_RUNNING,
  ['S', 1, { type: 'pages', round: 2, block: 0, runs: [0, 3] }, 3 * PAGE],
  request(2),
  answer([2, 1], 1),
  request(3),
  answer([3, 1], 1),
  answer([4, 2], 2),
  ['S', 1, { type: 'zeroPages', round: 2, block: 0, runs: [6, 2, 32, 1] }],
  ['D', 0, { type: 'whole' }],
  ...end(2, 6),
  ['S', 0, { type: 'released' }],
];

/** The link is lost while pages are missing, and another one brings them. */
export const RECONNECTED: readonly Step[] = [
  ...UP_TO_RUNNING,
  ['S', 1, { type: 'pages', round: 2, block: 0, runs: [0, 3] }, 3 * PAGE],
  request(3),
  ['S', 0, hello({ features: FEATURES, stage: 'handedOver', connection: 2 })],
  request(3),
  ['D', 0, { type: 'missing', block: 0, runs: [3, 5, 32, 1] }],
  ['D', 0, { ...RESUMED, state: 'incomplete', round: 2 }],
  answer([3, 1], 1),
  ['S', 1, { type: 'pages', round: 2, block: 0, runs: [4, 4, 32, 1] }, 5 * PAGE],
  ...end(2, 5),
  ['D', 0, { type: 'whole' }],
  ['S', 0, { type: 'released' }],
];
