import { Coverage } from './coverage.js';
import type { FuzzTarget } from './fuzz-target.js';
import { mutate, randomBytes } from './mutate.js';
import { Random } from './random.js';

/** Inputs that are run between two queries of the coverage. */
const BATCH = 256;

/** Most inputs that are kept because they ran new code. */
const LARGEST_CORPUS = 4096;

/** An input on which the code under test broke a promise, and how. */
export class Finding extends Error {
  constructor(
    readonly target: string,
    readonly input: Uint8Array,
    cause: unknown,
  ) {
    super(`${target}: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
  }
}

export interface FuzzReport {
  readonly target: string;
  readonly inputs: number;
  readonly corpus: number;
  readonly blocks: number;
  readonly seconds: number;
  /** Resident memory after a tenth of the inputs, and at the end, in bytes. */
  readonly residentEarly: number;
  readonly residentEnd: number;
}

/**
 * Coverage-guided: mutates inputs of a corpus, a batch at a time. When a batch ran blocks of code that never ran before, its
 * inputs are run again one by one, and the inputs that run these blocks join the corpus. Throws a `Finding`.
 */
export async function fuzz(target: FuzzTarget, inputs: number, seed: number): Promise<FuzzReport> {
  const random = new Random(seed);
  const coverage = new Coverage();
  const corpus = [...(await target.seeds())];
  const seen = new Set<string>();
  const started = performance.now();
  let residentEarly = 0;
  await coverage.start();
  try {
    for (const input of corpus) await attempt(target, input);
    for (const key of await coverage.take()) seen.add(key);
    for (let done = 0; done < inputs; ) {
      const batch: Uint8Array[] = [];
      for (; batch.length < BATCH && done < inputs; done++) {
        const input = next(corpus, random, target.longest);
        batch.push(input);
        await attempt(target, input);
      }
      const found = new Set((await coverage.take()).filter((key) => !seen.has(key)));
      for (const key of found) seen.add(key);
      if (found.size > 0) await adopt(target, batch, found, corpus, coverage);
      if (residentEarly === 0 && done >= inputs / 10) residentEarly = resident();
    }
  } finally {
    await coverage.stop();
  }
  return {
    target: target.name,
    inputs,
    corpus: corpus.length,
    blocks: seen.size,
    seconds: (performance.now() - started) / 1000,
    residentEarly,
    residentEnd: resident(),
  };
}

/** Runs one input; a broken promise becomes a `Finding`. */
export async function attempt(target: FuzzTarget, input: Uint8Array): Promise<void> {
  try {
    await target.run(input);
  } catch (error) {
    throw new Finding(target.name, input, error);
  }
}

function next(corpus: readonly Uint8Array[], random: Random, longest: number): Uint8Array {
  if (random.oneIn(50)) return randomBytes(random.below(longest), random);
  return mutate(random.pick(corpus), random.pick(corpus), random, longest);
}

/** Adds to the corpus the inputs of the batch that run blocks of `found`. */
async function adopt(
  target: FuzzTarget,
  batch: readonly Uint8Array[],
  found: Set<string>,
  corpus: Uint8Array[],
  coverage: Coverage,
): Promise<void> {
  for (const input of batch) {
    if (found.size === 0 || corpus.length >= LARGEST_CORPUS) return;
    await attempt(target, input);
    const ran = (await coverage.take()).filter((key) => found.delete(key));
    if (ran.length > 0) corpus.push(input);
  }
}

function resident(): number {
  globalThis.gc?.();
  return process.memoryUsage.rss();
}
