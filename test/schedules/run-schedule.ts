import { Embedder } from './embedder.js';
import type { Schedule } from './schedule.js';
import { ADDRESS, kill, Striker } from './strike.js';
import { endingOfWorld, judge } from './verdict.js';
import { type Problem, World, type WorldOptions } from './world.js';

export interface Outcome {
  readonly seed: number;
  /** How the schedule ended, in a few words, for the histogram. */
  readonly ending: string;
  readonly problems: readonly Problem[];
  readonly trace: readonly string[];
  readonly virtualMs: number;
  /** The kinds of the faults that struck. */
  readonly struck: readonly string[];
  /** Number of frames sent in each direction. */
  readonly sent: { readonly forth: number; readonly back: number };
  /** How often the source has resumed its guest. */
  readonly resumes: number;
}

/** By this time every fault has passed, and every migration that can end by itself has ended. Milliseconds. */
const BY_ITSELF_MS = 40_000;
/** Time to wait after an operator's decision. Milliseconds. */
const DECIDED_MS = 15_000;
/** Time to wait after every migration was cancelled. Milliseconds. */
const CANCELLED_MS = 60_000;
/** Time after all results for what may still be pending: closing messages, late connections that are answered. Milliseconds. */
const AFTERWARDS_MS = 20_000;

let current: World | undefined;

/** Reports an unhandled error as a problem of the running schedule. */
export function unhandled(error: unknown): void {
  const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
  if (current === undefined) throw new Error(`an error that nobody handled, between two schedules: ${text}`);
  current.fault('unhandled rejection', text);
}

/** Runs a schedule to its end on a virtual clock. The same schedule gives the same outcome. */
export async function runSchedule(schedule: Schedule, options: WorldOptions = {}): Promise<Outcome> {
  let striker: Striker | undefined;
  const world: World = new World(
    schedule,
    (made) => {
      striker = new Striker(made);
      return striker.strike;
    },
    options,
  );
  current = world;
  const embedder = new Embedder(world);
  striker?.receive(ADDRESS);
  world.depart(world.home, world.home.vm(), ADDRESS);

  await world.until(() => world.settled, BY_ITSELF_MS);
  world.calm = true;
  for (const path of world.network.paths) path.heal();
  await decide(world, embedder);
  if (!world.settled) {
    world.note('everything is cancelled');
    embedder.cancelAll();
    await world.until(() => world.settled, CANCELLED_MS);
    await decide(world, embedder);
  }
  embedder.unpause();
  // The guest goes on working for a while, since a migration that has ended must not change the guest's memory.
  await world.sleep(AFTERWARDS_MS);
  judge(world);
  const outcome: Outcome = {
    seed: schedule.seed,
    ending: endingOfWorld(world),
    problems: world.problems,
    trace: world.trace,
    virtualMs: world.clock.now(),
    struck: world.strikes.map(({ fault }) => fault.action.do),
    sent: world.sent,
    resumes: world.home.resumes,
  };
  world.over = true;
  for (const process of world.processes) kill(world, process, true);
  // Pending calls now belong to dead processes and get no further.
  await world.clock.yield();
  current = undefined;
  return outcome;
}

async function decide(world: World, embedder: Embedder): Promise<void> {
  for (let n = 0; n < 4; n++) {
    if (!(await embedder.act())) return;
    await world.until(() => world.settled, DECIDED_MS);
  }
}

/** Runs schedules one after the other; resolves with a text for each that fails. */
export async function problemsOf(schedules: readonly Schedule[]): Promise<string[]> {
  const failed: string[] = [];
  for (const schedule of schedules) {
    const { problems } = await runSchedule(schedule);
    const faults = JSON.stringify(schedule.faults.at(-1));
    for (const { kind, message } of problems) failed.push(`seed ${schedule.seed}, ${faults}: ${kind}: ${message}`);
  }
  return failed;
}
