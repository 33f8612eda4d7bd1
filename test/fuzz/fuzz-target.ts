/** Something that must survive any input. */
export interface FuzzTarget {
  readonly name: string;
  readonly description: string;
  /** Inputs are cut to this many bytes. */
  readonly longest: number;
  /** Inputs to start from: well-formed ones, so that mutations get far. */
  seeds(): Promise<readonly Uint8Array[]>;
  /** Rejects when the input broke a promise of the code under test; that it was refused is no reason to. */
  run(input: Uint8Array): Promise<void>;
}

/** Settles as `work` does; rejects when it takes so long that it must hang. Not a measurement: a bound far beyond any. */
export async function mustSettle<T>(work: Promise<T>, what: string, seconds = 30): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} did not settle within ${seconds} s`)), seconds * 1000);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}
