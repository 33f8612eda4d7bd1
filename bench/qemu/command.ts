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
import type { Case } from './sample.js';
import { markdown, withVerdict } from './table.js';

/** The repository; this file runs compiled, in bench/dist/qemu. */
const ROOT = join(import.meta.dirname, '..', '..', '..');
/** The exit status when the judge cannot run on this machine; the reason was printed. */
const CANNOT_RUN_HERE = 3;

export interface JudgeOptions {
  readonly rounds: number;
  /** Only entrants with this name, or where none has it, those whose names contain it. */
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

/** The case with only some of its entrants, as `JudgeOptions.only` says. */
function withEntrants(one: Case, only: string): Case {
  const exactly = one.entrants.filter(({ name }) => name === only);
  const entrants = exactly.length > 0 ? exactly : one.entrants.filter(({ name }) => name.includes(only));
  if (entrants.length > 0) return { ...one, entrants };
  const names = one.entrants.map(({ name }) => name).join('; ');
  throw new Error(`--only ${only}: nobody in ${one.name} has that in its name, but there are: ${names}`);
}

async function play(
  names: readonly CaseName[],
  contestants: Contestants,
  { rounds, only }: { readonly rounds: number; readonly only: string },
  report: (text: string) => void,
): Promise<Verdict> {
  const chosen = names.map((name) => withEntrants(caseOf(name, contestants), only));
  const cases: CaseResult[] = [];
  for (const one of chosen) cases.push(await playCase(one, rounds, report));
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
