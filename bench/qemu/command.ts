import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { hasKvm } from '@godwit/example-node-vmm';
import { CASE_NAMES, type CaseName, type Contestants, caseOf } from './cases.js';
import { withFolders } from './folders.js';
import { godwitVmm } from './godwit/godwit-vmm.js';
import { namesOf } from './qemu/names.js';
import { qemuVmm } from './qemu/qemu-vmm.js';
import { DEBIAN_12, NEWEST, NoQemu, type UnpackedQemu, unpackedQemu } from './qemu/unpacked-qemu.js';
import { type CaseResult, isSound, thisMachine, type Verdict } from './result.js';
import { playCase } from './rounds.js';
import { markdown, withVerdict } from './table.js';

/** The repository; this file runs compiled, in bench/dist/qemu. */
const ROOT = join(import.meta.dirname, '..', '..', '..');
/** The exit status when the judge cannot run on this machine; the reason was printed. */
const CANNOT_RUN_HERE = 3;

export interface JudgeOptions {
  readonly rounds: number;
  /** Only entrants whose name contains this text. */
  readonly only: string;
  readonly all: boolean;
  readonly json: boolean;
  readonly readme: boolean;
  readonly prepare: boolean;
  readonly names: boolean;
  readonly neverRearm: boolean;
}

/**
 * `npm run bench -- qemu [CASE...]`: QEMU and Godwit migrate the same guest on the same machine, alternately. The exit status is 1 when
 * a run failed or a guest's memory was wrong, and 3 without KVM or QEMU.
 */
export async function judge(names: readonly CaseName[], options: JudgeOptions): Promise<void> {
  const chosen = names.length === 0 ? CASE_NAMES : names;
  const report = (text: string): void => void process.stderr.write(`judge: ${text}\n`);
  let qemus: { readonly newest: UnpackedQemu; readonly older: UnpackedQemu | undefined };
  try {
    if (!hasKvm()) throw new NoQemu('no access to /dev/kvm');
    qemus = {
      newest: await unpackedQemu(NEWEST, report),
      older: options.all ? await unpackedQemu(DEBIAN_12, report) : undefined,
    };
  } catch (error) {
    if (!(error instanceof NoQemu)) throw error;
    report(`cannot run here: ${error.message}`);
    process.exitCode = CANNOT_RUN_HERE;
    return;
  }
  if (options.prepare) return;
  if (options.names) {
    process.stdout.write(`${JSON.stringify(await namesOf(qemus.newest))}\n`);
    return;
  }
  const verdict = await withFolders((memory, disk) => {
    const contestants: Contestants = {
      newest: qemuVmm(qemus.newest, memory),
      older: qemus.older && qemuVmm(qemus.older, memory),
      godwit: godwitVmm(`Godwit${options.neverRearm ? ' with a dirty log that is never re-armed' : ''}`, options),
      disk,
    };
    return play(chosen, contestants, { rounds: options.rounds, only: options.only }, report);
  });
  process.stdout.write(options.json ? `${JSON.stringify(verdict)}\n` : `${markdown(verdict)}\n`);
  if (options.readme) {
    const page = join(ROOT, 'README.md');
    writeFileSync(page, withVerdict(readFileSync(page, 'utf8'), verdict));
  }
  if (!isSound(verdict)) process.exitCode = 1;
}

async function play(
  names: readonly CaseName[],
  contestants: Contestants,
  { rounds, only }: { readonly rounds: number; readonly only: string },
  report: (text: string) => void,
): Promise<Verdict> {
  const cases: CaseResult[] = [];
  for (const name of names) {
    const all = caseOf(name, contestants);
    const entrants = all.entrants.filter((entrant) => entrant.name.includes(only));
    cases.push(await playCase({ ...all, entrants }, rounds, report));
  }
  const { older, newest, godwit } = contestants;
  return {
    benchmark: 'qemu',
    date: new Date().toISOString().slice(0, 10),
    machine: thisMachine(),
    versions: [
      ...(older === undefined ? [] : [older.name]),
      newest.name,
      `${godwit.name} ${revision()}`,
      `Node ${process.versions.node}`,
    ],
    rounds,
    cases,
  };
}

/** The commit that is measured, with a plus if there are uncommitted changes. */
function revision(): string {
  try {
    const git = (...args: string[]): string => execFileSync('git', ['-C', ROOT, ...args], { encoding: 'utf8' }).trim();
    return git('rev-parse', '--short', 'HEAD') + (git('status', '--porcelain') === '' ? '' : '+');
  } catch {
    return 'of no repository';
  }
}
