/** Code that must survive any input. */
export interface FuzzTarget {
  readonly name: string;
  readonly description: string;
  /** Inputs are cut to this many bytes. */
  readonly longest: number;
  /** Inputs to start from. They are well-formed, so that mutations of them reach much of the code. */
  seeds(): Promise<readonly Uint8Array[]>;
  /** Rejects if the code under test broke one of its promises on this input; a refusal of the input is no such case. */
  run(input: Uint8Array): Promise<void>;
}

/**
 * Settles as `work` does; rejects if `work` takes so long that it must hang. The bound is far above any real duration.
 */
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
