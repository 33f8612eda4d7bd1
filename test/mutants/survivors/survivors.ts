/** Mutants of one file that no test kills, for one reason. */
export interface Survivors {
  /** The file's path below packages/core/src. */
  readonly file: string;
  /** What a person needs to know to believe that no test is missing. */
  readonly why: string;
  /** As `npm run test:mutants` prints them, without the file. */
  readonly mutants: readonly string[];
}
