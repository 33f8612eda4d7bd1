import type { Survivors } from './survivors.js';

/** Of packages/core/src/destination/phases. */
export const DESTINATION_PHASES: readonly Survivors[] = [
  ...(
    [
      ['load', 'Load'],
      ['post-copy', 'PostCopy'],
      ['receive', 'Receive'],
      ['release', 'Release'],
      ['set-up', 'SetUp'],
      ['take-over', 'TakeOver'],
    ] as const
  ).map(([name, phase]) => ({
    file: `destination/phases/${name}.ts`,
    why: "a phase's name is for people with a debugger: nothing reads it",
    mutants: [`${phase}.name: '${name}' -> ''`],
  })),
  {
    file: 'destination/phases/load.ts',
    why: '`serve` waits for the promise in the tick in which the phase is made; the line guards against a change of that',
    mutants: ['Load.constructor: this.next.catch(() => {}); removed'],
  },
  {
    file: 'destination/phases/load.ts',
    why: 'a migration that is over rolls back from `ready` as it does from `receiving`, and its connection takes no frame any more',
    mutants: ['Load.#load: this.#context.serving !== this || session.signal.aborted -> left side #2'],
  },
  {
    file: 'destination/phases/load.ts',
    why: 'of an attempt that was given up the loader has no state: it loads nothing and throws, and the phase has already led to the next one',
    mutants: ['Load.#load: this.#context.serving !== this || session.signal.aborted -> right side'],
  },
  {
    file: 'destination/phases/load.ts',
    why: '`undefined` is not more than 0 either; the compiler does not compare it',
    mutants: ['Load.recover: missing?.status().pagesMissing ?? 0 -> left side'],
  },
  {
    file: 'destination/phases/post-copy.ts',
    why: 'pages are checked again where they are read, and after `released`, the only other frame, nothing is read any more',
    mutants: ['PostCopy.handle: checkPayload(frame.type, payloadBytes); removed'],
  },
  {
    file: 'destination/phases/post-copy.ts',
    why: 'without page channels a round ends with the only channel, whatever its number is',
    mutants: ['PostCopy.#pages: 0 -> 1 #3'],
  },
  {
    file: 'destination/phases/receive.ts',
    why: 'the next connection begins when all named pages are given up, and not at the next run of them: the source owes these pages and sends or names them again, whether they were given up or not',
    mutants: ['Receive.#missing: connection.signal.aborted -> undefined'],
  },
  {
    file: 'destination/phases/receive.ts',
    why: 'post-copy is agreed on only with a service; the compiler does not know that',
    mutants: ['Receive.#prepare.prepared: options.faults?.ready() without ?. at options.faults'],
  },
  {
    file: 'destination/phases/take-over.ts',
    why: 'the first connection has made the receiver; the compiler does not know that',
    mutants: [
      'admitPages: receiver?.board.beginMissing() without ?. at receiver',
      'admitPages: receiver?.unseal() without ?. at receiver',
    ],
  },
  {
    file: 'destination/phases/load.ts',
    why: 'the streams are dropped with it, so that no peer is told, and `link-lost` is not emitted while the embedder recovers',
    mutants: ["Load.recover: 'GODWIT_RECOVERED' -> ''"],
  },
  {
    file: 'destination/phases/receive.ts',
    why: 'all that counts is that a later question has another number',
    mutants: [
      'Receive.#question: 0 -> 1',
      'Receive.#switchover: this.#question++ -> --',
      'Receive.#prepare: ++this.#question -> --',
    ],
  },
  {
    file: 'destination/phases/receive.ts',
    why: 'state that has come as a whole is loaded with or without the link',
    mutants: [
      'Receive.#switchover: this.#context.serving !== this || arriving.attempt !== attempt || connection.signal.aborted -> left side',
    ],
  },
  {
    file: 'destination/phases/receive.ts',
    why: 'this is the only call that leads out of the phase, and it is made once',
    mutants: ['Receive.#switchover: this.#context.serving !== this || arriving.attempt !== attempt -> right side'],
  },
  {
    file: 'destination/phases/receive.ts',
    why: 'without page channels a round ends with the only channel, whatever its number is',
    mutants: ['Receive.#pages: 0 -> 1 #3'],
  },
  {
    file: 'destination/phases/release.ts',
    why: 'it decides only which of many outcomes is forgotten first, which outcomes.test.ts tests where that is done',
    mutants: ['Release.#tellSource: true -> false', 'Release.#tellSource: session.told = true; removed'],
  },
  {
    file: 'destination/phases/release.ts',
    why: 'after `go` nothing of a connection touches guest memory, so that the next one may begin before it is quiet',
    mutants: ['Release.#untilReleased: await session.drop(reason) without await'],
  },
  {
    file: 'destination/phases/release.ts',
    why: 'the end of the migration, which follows at once, rejects the same wait, and no source is taken in between',
    mutants: ['Release.#tellSource: giveUp.abort(error); removed'],
  },
  {
    file: 'destination/phases/set-up.ts',
    why: 'a `welcome` that cannot be written has ended the connection, which the next phase sees; frames keep the order of the calls',
    mutants: ['SetUp.#setUp: await unlessLost(connection, connection.write(welcome)) without await'],
  },
  {
    file: 'destination/phases/set-up.ts',
    why: 'the wait for the next source rejects at once with the same reason',
    mutants: ['SetUp.run: session.signal.throwIfAborted(); removed'],
  },
  {
    file: 'destination/phases/set-up.ts',
    why: 'a signal aborts once',
    mutants: [
      "asLongAsWanted: signal.addEventListener('abort', onLost, { once: true }) without its last argument",
      'asLongAsWanted: true -> false',
      "asLongAsWanted: over.addEventListener('abort', onOver, { once: true }) without its last argument",
      'asLongAsWanted: true -> false #2',
    ],
  },
  {
    file: 'destination/phases/set-up.ts',
    why: 'a claim that has ended may be ended again',
    mutants: ['SetUp.#answerDryRun: context.claim = undefined; removed'],
  },
  {
    file: 'destination/phases/set-up.ts',
    why: 'the numbers are set before they are read: by `switchover`, by the loading and by the start of the guest',
    mutants: ['SetUp.#setUp: 0 -> 1', 'SetUp.#setUp: 0 -> 1 #2', "SetUp.#setUp: 'running' -> ''"],
  },
];
