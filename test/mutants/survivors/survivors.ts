/** Mutants of one file that no test kills, for one reason. */
export interface Survivors {
  /** The file's path below packages/core/src. */
  readonly file: string;
  /** Why no test is missing, in enough detail to convince a reader. */
  readonly why: string;
  /** The mutants, as `npm run test:mutants` prints them, without the file. */
  readonly mutants: readonly string[];
}
