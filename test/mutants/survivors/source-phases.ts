import type { Survivors } from './survivors.js';

/** Of packages/core/src/source/phases. */
export const SOURCE_PHASES: readonly Survivors[] = [
  {
    file: 'source/phases/background.ts',
    why: "a phase's name is for people with a debugger: nothing reads it",
    mutants: ["Background.name: 'background' -> ''"],
  },
  {
    file: 'source/phases/background.ts',
    why: 'how often the progress is looked at, where nobody is told, is a choice',
    mutants: ['LOOK_MS: 100 -> 200'],
  },
  {
    file: 'source/phases/background.ts',
    why: 'the same frames may come as in pre-copy',
    mutants: ["Background.#commit: session.phase = 'stop-and-copy'; removed"],
  },
  {
    file: 'source/phases/background.ts',
    why: 'the connection is closed in the same call, and `cancel` takes both phases for a snapshot that has its name',
    mutants: ["Background.run: session.phase = 'release'; removed", "Background.run: 'release' -> ''"],
  },
  {
    file: 'source/phases/post-copy.ts',
    why: "a phase's name is for people with a debugger: nothing reads it",
    mutants: ["PostCopy.name: 'post-copy' -> ''"],
  },
  {
    file: 'source/phases/hand-over.ts',
    why: "a phase's name is for people with a debugger: nothing reads it",
    mutants: ["HandOver.name: 'hand-over' -> ''"],
  },
  {
    file: 'source/phases/pre-copy.ts',
    why: "a phase's name is for people with a debugger: nothing reads it",
    mutants: ["PreCopy.name: 'pre-copy' -> ''"],
  },
  {
    file: 'source/phases/release.ts',
    why: "a phase's name is for people with a debugger: nothing reads it",
    mutants: ["Release.name: 'release' -> ''"],
  },
  {
    file: 'source/phases/set-up.ts',
    why: "a phase's name is for people with a debugger: nothing reads it",
    mutants: ["SetUp.name: 'set-up' -> ''"],
  },
  {
    file: 'source/phases/stop-and-copy.ts',
    why: 'an error that the peer has told ends the connection with itself: the reason of the signal and the error are the same',
    mutants: ['StopAndCopy.#reasonToGoBack: !told without !'],
  },
  {
    file: 'source/phases/pre-copy.ts',
    why: 'a round that follows no harvest has no time since one: it is not read',
    mutants: ['PreCopy.#populated: 0 -> 1'],
  },
  {
    file: 'source/phases/pre-copy.ts',
    why: 'the round, which says the same, begins in the same tick',
    mutants: ['PreCopy.#populated: meter.harvested(dirtyPages); removed'],
  },
  {
    file: 'source/phases/pre-copy.ts',
    why: 'the loop goes round only with a lost link, where settling once more reconnects and harvests, as the next round would',
    mutants: ['PreCopy.run: givenUp = undefined; removed'],
  },
  {
    file: 'source/phases/pre-copy.ts',
    why: 'after a round there is a connection, lost or not; the compiler does not know that',
    mutants: ['PreCopy.run: connection !== undefined && !connection.signal.aborted -> right side'],
  },
  {
    file: 'source/phases/pre-copy.ts',
    why: 'what the old harvester still owes is then sent once more: that costs pages, and none is lost',
    mutants: [
      'PreCopy.run: context.harvester = new Harvester(vm.memory, queue, tracker, options.clock, harvester); removed',
    ],
  },
  {
    file: 'source/phases/release.ts',
    why: 'over the current connection the destination has just said that the guest runs there; the compiler does not know that',
    mutants: [
      'sendReleased: session.current?.control without ?. at session.current',
      'sendReleased: control !== undefined -> true',
    ],
  },
  {
    file: 'source/phases/release.ts',
    why: 'the connection is closed in the same call, and nobody acts on what still comes',
    mutants: ["sendReleased: session.phase = 'release'; removed", "sendReleased: 'release' -> ''"],
  },
  {
    file: 'source/phases/release.ts',
    why: 'a stream is closed behind what is being written',
    mutants: [
      "sendReleased: await settledWithin(control.write({ type: 'released' }), options.clock, CLOSING_MS) without await",
    ],
  },
  {
    file: 'source/phases/set-up.ts',
    why: 'the only other state is `cancelling`, which no phase changes',
    mutants: ["SetUp.run: context.state() === 'setup' -> true"],
  },
  {
    file: 'source/phases/stop-and-copy.ts',
    why: "a phase's name is for people with a debugger: nothing reads it",
    mutants: ["StopAndCopy.name: 'stop-and-copy' -> ''"],
  },
  {
    file: 'source/phases/stop-and-copy.ts',
    why: 'the same frames may come as in pre-copy',
    mutants: ["StopAndCopy.run: session.phase = 'stop-and-copy'; removed"],
  },
  {
    file: 'source/phases/stop-and-copy.ts',
    why: 'a migration that is over has ended its connection, which was looked at in the same tick',
    mutants: ['StopAndCopy.run: session.signal.throwIfAborted(); removed'],
  },
];
