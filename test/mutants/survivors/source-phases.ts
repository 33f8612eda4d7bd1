import type { Survivors } from './survivors.js';

/** Of packages/core/src/source/phases. */
export const SOURCE_PHASES: readonly Survivors[] = [
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
