import {
  type Frame,
  type FrameStream,
  type MigrateOptions,
  type Migration,
  migrate,
  roundCap,
  type WelcomeFrame,
} from '@godwit/core';
import { type MemoryLink, memoryLink, type ToyVm, VirtualClock } from '@godwit/core/testing';
import { codeOf, filledVm } from './toy-migration.js';

export const WELCOME: WelcomeFrame = {
  type: 'welcome',
  version: 2,
  features: [],
  software: 'hostile/1',
  maximumPayload: 2 ** 22,
  incarnation: '1'.repeat(32),
  maximumDeviceState: 2 ** 28,
};

export const RESUMED: Frame = {
  type: 'resumed',
  state: 'receiving',
  round: 1,
  deviceSequences: [],
  deviceResets: [],
  incarnation: WELCOME.incarnation,
  resumeMs: 0,
  sinceReadyMs: 0,
};

/** What the destination answers to each frame; `undefined` for what an honest one would. */
export type Answers = (frame: Frame) => readonly Frame[] | undefined;

/** Plays the destination by hand against `migrate`. */
export async function play(
  answers: Answers,
  options: MigrateOptions = {},
  source: ToyVm = filledVm(),
  onStart: (migration: Migration) => void = () => {},
) {
  const clock = new VirtualClock();
  const link: MemoryLink = memoryLink({ clock, capacity: 64 });
  const heard: Frame[] = [];
  const migration: Migration = migrate(source, link.connector, {
    clock,
    policy: roundCap(2, 'switchover'),
    ...options,
  });
  onStart(migration);
  const incoming = await link.listener.accept(new AbortController().signal);
  let pages = 0;
  const honest = (frame: Frame): readonly Frame[] => {
    switch (frame.type) {
      case 'hello':
        return [{ ...WELCOME, features: frame.features }];
      case 'ping':
        return [{ type: 'pong', id: frame.id }];
      case 'roundEnd':
        return [{ type: 'roundAck', round: frame.round, pages }];
      case 'prepare': {
        const { attempt, deviceSequences } = frame;
        return [{ type: 'prepared', incarnation: WELCOME.incarnation, attempt, deviceSequences }];
      }
      case 'back':
        return [{ type: 'backAck', attempt: frame.attempt, deviceResets: source.devices.map(() => 0) }];
      case 'switchover':
        return [{ type: 'ready', attempt: frame.attempt, loadMs: 0 }];
      case 'digestsEnd':
        return [{ type: 'verified', pagesCompared: 1000, pagesDifferent: 0, differences: [] }];
      case 'go':
        return [{ type: 'running', resumeMs: 0, sinceReadyMs: 0 }];
      default:
        return [];
    }
  };
  const serve = async (stream: FrameStream) => {
    for (;;) {
      const received = await stream.read();
      if (received === null || received.frame.type === 'error') return void stream.close();
      const { frame } = received;
      heard.push(frame);
      if (frame.type === 'pages' || frame.type === 'zeroPages')
        for (let i = 1; i < frame.runs.length; i += 2) pages += frame.runs[i] as number;
      await stream.skipPayload();
      const answer = answers(frame) ?? honest(frame);
      if (frame.type === 'roundEnd') pages = 0;
      for (const one of answer) await stream.write(one);
    }
  };
  serve(incoming.control).catch(() => {});
  const [result] = await Promise.allSettled([migration.result]);
  return { source, link, clock, heard, migration, code: codeOf(result as PromiseSettledResult<unknown>), result };
}

/** Answers that are wrong in the right round. */
export const acknowledging =
  (pages: number): Answers =>
  (frame) =>
    frame.type === 'roundEnd' ? [{ type: 'roundAck', round: frame.round, pages }] : undefined;

export const to =
  (type: Frame['type'], ...frames: readonly object[]): Answers =>
  (frame) =>
    frame.type === type ? (frames as unknown as readonly Frame[]) : undefined;
