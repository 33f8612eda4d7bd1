import { mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { hasKvm } from '@godwit/example-node-vmm';
import { cacheFolder } from '../qemu/cache-folder.js';
import { type CaseName, caseOf } from '../qemu/cases.js';
import { godwitVmm } from '../qemu/godwit/godwit-vmm.js';
import type { Vmm, VmmProcess } from '../qemu/vmm.js';
import { idleMs, readProfile } from './cpu-profile.js';
import { flameGraph } from './flame-graph.js';

export interface ProfileOptions {
  /** The entrant: a part of its name, such as `main thread`. Empty: the default entrant. */
  readonly way: string;
  /** The folder for the pictures. */
  readonly out: string;
}

/** A process that V8 samples, and the time window of the profile. Microseconds of CLOCK_MONOTONIC. */
interface Watched {
  readonly role: string;
  readonly folder: string;
  from: number;
  until: number;
}

const CANNOT_RUN_HERE = 3;

/**
 * `npm run profile -- CASE`: runs a case of the judge once, with Godwit alone, and writes a flame graph for every thread of the source and
 * of the destination, for the time of the migration (or of the save, and of the restore). Prints the paths.
 */
export async function profile(name: CaseName, { way, out }: ProfileOptions): Promise<void> {
  if (!hasKvm()) {
    process.stderr.write('profile: cannot run here: no access to /dev/kvm\n');
    process.exitCode = CANNOT_RUN_HERE;
    return;
  }
  const folder = resolve(out);
  mkdirSync(folder, { recursive: true });
  const samples = join(folder, 'samples');
  rmSync(samples, { recursive: true, force: true });
  const disk = cacheFolder('profile');
  mkdirSync(disk, { recursive: true });
  const watched: Watched[] = [];
  const godwit = profiled(samples, watched);
  const { entrants } = caseOf(name, { newest: absent(), older: undefined, godwit, disk });
  const own = entrants.filter((entrant) => entrant.name.startsWith(godwit.name));
  const entrant = own.find((one) => one.name.includes(way));
  if (entrant === undefined) {
    throw new Error(
      `no way of "${name}" has "${way}" in its name; there are: ${own.map((one) => one.name).join('; ')}`,
    );
  }
  const { figures } = await entrant.measure();
  process.stdout.write(`${name}, ${entrant.name}: ${JSON.stringify(figures)}\n`);
  for (const one of watched) writePictures(one, name, folder);
}

function writePictures({ role, folder, from, until }: Watched, name: string, out: string): void {
  const counts = new Map<string, number>();
  for (const file of readdirSync(folder).sort()) {
    const thread = readProfile(join(folder, file), from, until);
    if (thread.root.ms === 0) continue;
    const nth = (counts.get(thread.thread) ?? 0) + 1;
    counts.set(thread.thread, nth);
    const called = `${role}, ${thread.thread}${nth > 1 ? ` ${nth}` : ''}`;
    const path = join(out, `${name}-${called.replaceAll(', ', '-').replaceAll(' ', '-')}.svg`);
    writeFileSync(path, flameGraph(`${name}: ${called}`, thread));
    const busy = 100 * (1 - idleMs(thread) / thread.root.ms);
    process.stdout.write(`  ${path}: ${thread.root.ms.toFixed(0)} ms, busy ${busy.toFixed(0)} %\n`);
  }
}

/** Godwit in profiled processes; the window of a profile reaches from the command to its end. */
function profiled(samples: string, all: Watched[]): Vmm {
  const started = (role: string): Watched => {
    const one = { role, folder: join(samples, `${all.length}-${role}`), from: Number.POSITIVE_INFINITY, until: 0 };
    all.push(one);
    return one;
  };
  const name = 'Godwit';
  return {
    name,
    boot: async (spec) => {
      const one = started('source');
      return watching(await godwitVmm(name, { profileFolder: one.folder }).boot(spec), one);
    },
    empty: async (spec) => {
      const one = started('destination');
      return watching(await godwitVmm(name, { profileFolder: one.folder }).empty(spec), one);
    },
  };
}

function watching(process: VmmProcess, one: Watched): VmmProcess {
  const during = async <T>(work: Promise<T>): Promise<T> => {
    one.from = Math.min(one.from, microseconds());
    try {
      return await work;
    } finally {
      one.until = Math.max(one.until, microseconds());
    }
  };
  return {
    printed: (letter) => process.printed(letter),
    listen: (settings) => during(process.listen(settings)),
    send: (port, settings, patience) => during(process.send(port, settings, patience)),
    arrival: () => during(process.arrival()),
    save: (path, settings) => during(process.save(path, settings)),
    restore: (path, settings) => during(process.restore(path, settings)),
    faultLatencies: () => process.faultLatencies(),
    firstBytes: () => process.firstBytes(),
    close: () => process.close(),
  };
}

function microseconds(): number {
  return Number(process.hrtime.bigint() / 1000n);
}

function absent(): Vmm {
  const no = (): never => {
    throw new Error('QEMU is not profiled');
  };
  return { name: 'QEMU', boot: no, empty: no };
}
