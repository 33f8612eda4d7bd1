import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import type { Death, DeathOrder, DeathReport } from './death-messages.js';

const PROGRAM = fileURLToPath(new URL('./death-process.js', import.meta.url));

/** A step that takes longer hangs. Milliseconds. */
const HANGS_MS = 60_000;

export interface DeathCase extends Death {
  readonly victim: 'source' | 'destination';
  /** Whether pages follow once the guest runs at the destination. */
  readonly postcopy?: boolean;
}

export function deathName({ victim, direction, frame, postcopy }: DeathCase): string {
  return `kill:${victim}:${direction}:frame=${frame}${postcopy ? ':postcopy' : ''}`;
}

export function parseDeath(name: string): DeathCase | undefined {
  const match = /^kill:(source|destination):(out|in):frame=(\d+)(:postcopy)?$/.exec(name);
  if (match === null) return undefined;
  return {
    victim: match[1] as DeathCase['victim'],
    direction: match[2] as Death['direction'],
    frame: Number(match[3]),
    postcopy: match[4] !== undefined,
  };
}

/** The source's or the destination's process, with its reports. */
class RoleProcess {
  readonly child: ChildProcess;
  readonly reports: DeathReport[] = [];
  #dead = false;
  #wake: (() => void)[] = [];

  constructor() {
    this.child = fork(PROGRAM, { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
    const wake = () => {
      for (const resolve of this.#wake.splice(0)) resolve();
    };
    this.child.on('message', (report: DeathReport) => {
      this.reports.push(report);
      wake();
    });
    this.child.on('exit', () => {
      this.#dead = true;
      wake();
    });
  }

  get dead(): boolean {
    return this.#dead;
  }

  tell(order: DeathOrder): void {
    if (this.child.connected) this.child.send(order, () => {});
  }

  find<R extends DeathReport['report']>(report: R): Extract<DeathReport, { report: R }> | undefined {
    return this.reports.find((one): one is Extract<DeathReport, { report: R }> => one.report === report);
  }

  /** Resolves at the next report or when the process ends. */
  changed(): Promise<void> {
    return new Promise((resolve) => this.#wake.push(resolve));
  }

  async end(): Promise<void> {
    if (this.#dead) return;
    const gone = once(this.child, 'exit');
    this.tell({ order: 'end' });
    const timer = setTimeout(() => this.child.kill('SIGKILL'), 10_000);
    await gone;
    clearTimeout(timer);
  }
}

export interface DeathResult {
  readonly struck: boolean;
  readonly ending: string;
  readonly problems: readonly string[];
}

/** Migrates a guest between two processes, of which `victim` kills itself at the given frame, and examines the survivor. */
export async function runDeath({ victim, direction, frame, postcopy = false }: DeathCase): Promise<DeathResult> {
  const source = new RoleProcess();
  const destination = new RoleProcess();
  const death = { direction, frame };
  try {
    destination.tell({ order: 'receive', postcopy, ...(victim === 'destination' ? { death } : {}) });
    await until(() => destination.find('listening') !== undefined || destination.dead, [destination]);
    const port = destination.find('listening')?.port ?? 0;
    source.tell({ order: 'migrate', port, postcopy, ...(victim === 'source' ? { death } : {}) });
    const [mortal, survivor] = victim === 'source' ? [source, destination] : [destination, source];
    const ended = (role: RoleProcess) => role.dead || role.find('ended') !== undefined;
    await until(() => mortal.dead || (ended(source) && ended(destination)), [source, destination]);
    const struck = mortal.child.signalCode === 'SIGKILL';
    if (struck) survivor.tell({ order: 'peer-died' });
    await until(() => ended(survivor), [survivor]);
    survivor.tell({ order: 'examine' });
    await until(() => survivor.dead || survivor.find('examined') !== undefined, [survivor]);
    return { struck, ...judge(victim, mortal, survivor) };
  } catch (error) {
    return { struck: true, ending: 'hangs', problems: [error instanceof Error ? error.message : String(error)] };
  } finally {
    await Promise.all([source.end(), destination.end()]);
  }
}

/** Checks that the guest runs at the survivor or died with the process that had it, and that the survivor reports which. */
function judge(victim: DeathCase['victim'], mortal: RoleProcess, survivor: RoleProcess) {
  const end = survivor.find('ended');
  const examined = survivor.find('examined');
  const recovered = survivor.find('recovered');
  const problems = [...(examined?.problems ?? [])];
  if (survivor.dead || examined === undefined) problems.push('the survivor died too');
  const running = examined?.running ?? false;
  if (!mortal.dead) return { ending: running ? 'nobody died, moved' : 'nobody died', problems };
  if (victim === 'destination') {
    // The source had handed over the guest, which died with the destination.
    if (end?.code === undefined) return { ending: 'handed over, then died with the destination', problems };
    if (!running) problems.push(`the source has ${end.code} and runs nothing: ${end.message}`);
    return { ending: `${end.code}${recovered === undefined ? ', runs on' : ', recovered'}`, problems };
  }
  if (end?.code === undefined) {
    if (!running) problems.push('the destination ended well and runs nothing');
    return { ending: recovered === undefined ? 'moved' : 'ready, recovered', problems };
  }
  if (running) problems.push(`the destination has ${end.code} and runs the guest`);
  return { ending: `died with the source: ${end.code}`, problems };
}

async function until(done: () => boolean, roles: readonly RoleProcess[]): Promise<void> {
  const started = Date.now();
  while (!done()) {
    const left = started + HANGS_MS - Date.now();
    if (left <= 0) throw new Error(`nothing happens any more: ${JSON.stringify(roles.map(({ reports }) => reports))}`);
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, left);
    });
    await Promise.race([late, ...roles.map((role) => role.changed())]);
    clearTimeout(timer);
  }
}
