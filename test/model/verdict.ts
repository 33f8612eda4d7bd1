/** A search that visited fewer states than this has failed: the model has a million. */
const FEWEST_STATES = 100_000;

/** The parts of a Spin verifier's output that are used here. */
export interface Search {
  readonly errors: number;
  readonly states: number;
  readonly depth: number;
  readonly mebibytes: number;
  /** The error that the search found, in Spin's words; `undefined` if it found none. */
  readonly found: string | undefined;
}

/** Reads the output of a verifier (`pan`). Throws where it is not the complete output of a search of all states. */
export function readSearch(output: string): Search {
  const errors = numberIn(output, /^State-vector \d+ byte, depth reached \d+, errors: (\d+)$/m, 'the number of errors');
  const search = {
    errors,
    depth: numberIn(output, /depth reached (\d+), errors/, 'the depth'),
    states: numberIn(output, /^\s*(\d+(?:\.\d+e\+\d+)?) states, stored/m, 'the number of states'),
    mebibytes: numberIn(output, /^\s*([\d.]+)\stotal actual memory usage$/m, 'the memory'),
    found: /^pan:\d+: (.*?)(?: \(at depth \d+\))?$/m.exec(output)?.[1],
  };
  if (!output.includes('Full statespace search for:')) throw new Error('it was no full search');
  for (const trouble of [
    /max search depth too small/,
    /out of memory/,
    /reached -DMEMLIM bound/,
    /hashing precision/,
  ]) {
    const line = output.split('\n').find((text) => trouble.test(text));
    if (line !== undefined) throw new Error(`the search was cut short: ${line.trim()}`);
  }
  if (errors === 0 && /search not completed/i.test(output)) throw new Error('the search was not completed');
  return search;
}

/**
 * Checks that `output` is that of a complete search without an error: of `claim`, or, without one, for assertions,
 * deadlocks and unreached code. Returns the search; throws if anything differs.
 */
export function passed(output: string, claim: string | undefined): Search {
  const search = readSearch(output);
  if (search.errors !== 0 || search.found !== undefined) {
    throw new Error(`Spin found ${search.errors} errors: ${search.found ?? 'it does not say what'}`);
  }
  if (!(search.states >= FEWEST_STATES)) {
    throw new Error(`only ${search.states} states: fewer than ${FEWEST_STATES} are no search of this model`);
  }
  mustSay(output, 'assertion violations', claim === undefined ? '+' : '+ (if within scope of claim)');
  if (claim === undefined) {
    mustSay(output, 'invalid end states', '+');
    const unreached = [...output.matchAll(/^unreached in proctype (\w+)\n((?:\t.*\n)*?)\t\((\d+) of \d+ states\)$/gm)];
    if (unreached.length === 0) throw new Error('Spin does not say which code was reached');
    for (const [, process, lines = '', count] of unreached) {
      const named = lines.split('\n').filter((line) => line !== '');
      // The line for an illegal frame must stay unreached, since such a frame must never come.
      const code = named.filter((line) => !line.endsWith(', "assert(0)"'));
      if (code.length > 0 || Number(count) !== named.length) {
        throw new Error(`in ${process} ${count} states are never reached:\n${lines}`);
      }
    }
  } else {
    mustSay(output, 'never claim', `+ (${claim})`);
    mustSay(output, 'acceptance   cycles', '+ (fairness disabled)');
  }
  return search;
}

/** Checks that Spin found one error, of the kind that `claim` has to find. Returns the search. */
export function refused(output: string, claim: string | undefined): Search & { readonly found: string } {
  const search = readSearch(output);
  const { errors, found } = search;
  if (errors !== 1 || found === undefined) throw new Error(`Spin found ${errors} errors where there has to be one`);
  if (claim !== undefined) mustSay(output, 'never claim', `+ (${claim})`);
  // A violated claim is printed as the assertion of its negation.
  const ofClaim = /^assertion violated\s+!\(|^acceptance cycle$/.test(found);
  if (ofClaim !== (claim !== undefined)) throw new Error(`Spin found something else than was planted: ${found}`);
  return { ...search, found };
}

/** The line of `model` whose assertion fails at the end of `trail`, as `spin -t` printed it. */
export function failedLine(trail: string, model: string): string {
  const number = numberIn(trail, /^spin: \S+:(\d+), Error: assertion violated$/m, 'an assertion that fails');
  const line = model.split('\n')[number - 1]?.trim();
  if (line === undefined || line === '') throw new Error(`line ${number} of the model has no assertion`);
  return line;
}

function mustSay(output: string, what: string, expected: string): void {
  const line = output.split('\n').find((text) => text.trimStart().startsWith(what));
  const said = line?.slice(line.indexOf(what) + what.length).trim();
  if (said !== expected) throw new Error(`expected "${what}" to be "${expected}", Spin says "${said}"`);
}

function numberIn(output: string, pattern: RegExp, what: string): number {
  const text = pattern.exec(output)?.[1];
  if (text === undefined) throw new Error(`the output does not have ${what}:\n${output.slice(-2000)}`);
  return Number(text);
}
