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
      'PreCopy.run: context.harvester = new Harvester(vm.memory, queue, tracker, options.clock, written, harvester); removed',
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
  {
    file: 'source/phases/stop-and-copy.ts',
    why: '`ready` and `verified` lead to this phase as they are read; over a new link that tells of an old `ready` it only refuses frames that nobody waits for',
    mutants: [
      "StopAndCopy.#pausedSteps: session.phase = 'deciding'; removed",
      "StopAndCopy.#pausedSteps: 'deciding' -> ''",
    ],
  },
  {
    file: 'source/phases/stop-and-copy.ts',
    why: 'without post-copy every page is acknowledged by then: none is owed or taken, so that no page that was written counts as named',
    mutants: ['StopAndCopy.#pausedSteps: context.byPostcopy -> true'],
  },
  {
    file: 'source/phases/stop-and-copy.ts',
    why: 'the harvest before it rejects when the link is lost, and nothing is read from the link between the two',
    mutants: ['StopAndCopy.#pausedSteps: this.#connection.signal.throwIfAborted(); removed'],
  },
  {
    file: 'source/phases/stop-and-copy.ts',
    why: 'a signal aborts once, and the listener is removed when `pause` has returned',
    mutants: [
      "StopAndCopy.#pause: signal.addEventListener('abort', onLost, { once: true }) without its last argument",
      'StopAndCopy.#pause: true -> false',
    ],
  },
  {
    file: 'source/phases/stop-and-copy.ts',
    why: '`#within` rejects in the same tick, and `settleAbandoned` stops the sending: the signal stops it only some milliseconds earlier',
    mutants: ['StopAndCopy.#send: rounds.sendPaused(this.#connection, bound.signal) without its last argument'],
  },
  {
    file: 'source/phases/stop-and-copy.ts',
    why: 'when the bound is passed, the error is that of the bound, unless the link is lost in the same tick: then the new link is given up at once',
    mutants: ['StopAndCopy.#load: bound.signal.aborted || !isLost(error) -> right side'],
  },
  {
    file: 'source/phases/stop-and-copy.ts',
    why: 'everything that is thrown here is an error, and only errors of the engine have these properties',
    mutants: [
      "StopAndCopy.#reasonToGoBack: GodwitError.is(error) && error.code === 'GODWIT_SWITCHOVER_OVERRAN' -> right side",
      'StopAndCopy.#reasonToGoBack: GodwitError.is(error) && error.remote -> right side',
    ],
  },
  {
    file: 'source/phases/stop-and-copy.ts',
    why: 'a step that fails with the connection rejects with the reason of its signal: the two differ only if something else fails in the same tick',
    mutants: [
      'StopAndCopy.#reasonToGoBack: GodwitError.is(error) && error.remote -> left side',
      'StopAndCopy.#reasonToGoBack: signal.aborted && !told -> false',
      'StopAndCopy.#reasonToGoBack: signal.aborted && !told -> left side',
    ],
  },
  {
    file: 'source/phases/background.ts',
    why: 'after the abort the sleep rejects in the same tick, and the loop ends without another look, unless one was due in that very tick',
    mutants: ['Background.#untilSaved: await looking; removed', 'Background.#untilSaved: await looking without await'],
  },
  {
    file: 'source/phases/background.ts',
    why: 'the end of the migration ends the connection in the same tick, and with it the round',
    mutants: ['Background.#commit: rounds.sendPaused(this.#connection, signal) without its last argument'],
  },
  {
    file: 'source/phases/background.ts',
    why: 'devices are asked only for what went over page channels, and a file has none',
    mutants: [
      'Background.#commit: askToLoad( this.#connection, { attempt, round: rounds.round, runState: guest.runState }, devices, ) without its last argument',
    ],
  },
];
