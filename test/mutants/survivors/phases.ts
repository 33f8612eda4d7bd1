import type { Survivors } from './survivors.js';

/** Of packages/core/src/source/phases and packages/core/src/destination/phases. */
export const PHASES: readonly Survivors[] = [
  {
    file: 'destination/phases/release.ts',
    why: 'it decides only which of many outcomes is forgotten first, which outcomes.test.ts tests where that is done',
    mutants: ['Release.#tellSource: true -> false'],
  },
  {
    file: 'destination/phases/set-up.ts',
    why: 'a `welcome` that cannot be written has ended the connection, which the next phase sees; frames keep the order of the calls',
    mutants: ['SetUp.#setUp: await unlessLost(connection, connection.write(welcome)) without await'],
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
];
