import { readFileSync } from 'node:fs';

/** A profile as V8 writes it (`.cpuprofile`, Chrome's format): samples of the stack. Times are microseconds of CLOCK_MONOTONIC. */
interface CpuProfile {
  readonly nodes: readonly {
    readonly id: number;
    readonly callFrame: { readonly functionName: string; readonly url: string; readonly lineNumber: number };
    readonly children?: readonly number[];
  }[];
  readonly startTime: number;
  readonly samples: readonly number[];
  readonly timeDeltas: readonly number[];
}

/** Calls of one function from the same callers. */
export interface Call {
  readonly name: string;
  /** The file, by its last two folders, and the line; empty for frames that are no JavaScript. */
  readonly place: string;
  /** Milliseconds on the stack, callees included. */
  ms: number;
  readonly callees: Map<string, Call>;
}

/** One thread of a process, in a window of time. */
export interface ThreadProfile {
  /** `main`, or the file of the thread's first module. */
  readonly thread: string;
  /** The whole window; its callees are the outermost calls. */
  readonly root: Call;
}

/** Frames of a thread that runs no JavaScript. They are shown as callees of the frame above them. */
const IDLE = '(idle)';

/** Reads the profile of a thread, of the time between two moments (microseconds, as of `process.hrtime`). */
export function readProfile(path: string, from: number, until: number): ThreadProfile {
  const profile = JSON.parse(readFileSync(path, 'utf8')) as CpuProfile;
  const stacks = stacksOf(profile);
  const root: Call = { name: 'all', place: '', ms: 0, callees: new Map() };
  let at = profile.startTime;
  for (const [index, node] of profile.samples.entries()) {
    const before = at;
    at += profile.timeDeltas[index] as number;
    const ms = (Math.min(at, until) - Math.max(before, from)) / 1000;
    if (ms > 0) add(root, stacks.get(node) ?? [], ms);
  }
  return { thread: threadOf(profile), root };
}

/** The time in which the thread had nothing to do, in milliseconds. */
export function idleMs({ root }: ThreadProfile): number {
  return [...root.callees.values()].find(({ name }) => name === IDLE)?.ms ?? 0;
}

type Place = Pick<Call, 'name' | 'place'>;

function add(root: Call, stack: readonly Place[], ms: number): void {
  let call = root;
  call.ms += ms;
  for (const { name, place } of stack) {
    const key = `${name} ${place}`;
    const callee = call.callees.get(key) ?? { name, place, ms: 0, callees: new Map() };
    call.callees.set(key, callee);
    callee.ms += ms;
    call = callee;
  }
}

/** For each node, the calls from the outermost one on. */
function stacksOf({ nodes }: CpuProfile): ReadonlyMap<number, readonly Place[]> {
  const parents = new Map(nodes.flatMap(({ id, children = [] }) => children.map((child) => [child, id] as const)));
  const places = new Map(nodes.map(({ id, callFrame }) => [id, placeOf(callFrame)] as const));
  const stacks = new Map<number, readonly Place[]>();
  const stackOf = (id: number): readonly Place[] => {
    const known = stacks.get(id);
    if (known !== undefined) return known;
    const parent = parents.get(id);
    // The first node is the root, which is no call.
    const stack = parent === undefined ? [] : [...stackOf(parent), places.get(id) as Place];
    stacks.set(id, stack);
    return stack;
  };
  for (const { id } of nodes) stackOf(id);
  return stacks;
}

function placeOf({ functionName, url, lineNumber }: CpuProfile['nodes'][number]['callFrame']): Place {
  const file = url.split('/').slice(-2).join('/');
  return {
    name: functionName === '' ? '(module)' : functionName,
    place: file === '' ? '' : `${file}:${lineNumber + 1}`,
  };
}

/** A worker's first module is the file that it was started with. */
function threadOf({ nodes }: CpuProfile): string {
  const threads = ['channel-thread', 'vcpu-thread', 'fault-thread'];
  const found = threads.find((name) => nodes.some(({ callFrame }) => callFrame.url.endsWith(`/${name}.js`)));
  return found ?? 'main';
}
