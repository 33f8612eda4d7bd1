import type { Writable } from 'node:stream';
import { ArgumentError } from '../command/argument-error.js';
import type { Check } from './check.js';
import { type Diagnosis, diagnose } from './diagnosis.js';
import { DOCTOR_USAGE, type DoctorRequest, doctorRequest } from './doctor-arguments.js';
import { type HostFacts, hostFacts } from './host-facts.js';
import { PURPOSES, type Purpose } from './purposes.js';

const MARK: Readonly<Record<Check['verdict'], string>> = { ok: 'ok', note: 'note', missing: 'MISSING' };

/** Runs `godwit doctor` with the arguments after its name; resolves with the exit status. */
export async function runDoctor(
  argv: readonly string[],
  { stdout, stderr }: { readonly stdout: Writable; readonly stderr: Writable },
  facts: () => Promise<HostFacts> = hostFacts,
): Promise<number> {
  let request: DoctorRequest | undefined;
  try {
    request = doctorRequest(argv);
  } catch (error) {
    if (!(error instanceof ArgumentError)) throw error;
    stderr.write(`godwit: ${error.message}\nSee godwit doctor --help.\n`);
    return 2;
  }
  if (request === undefined) {
    stdout.write(DOCTOR_USAGE);
    return 0;
  }
  const { need, json } = request;
  const diagnosis = diagnose(await facts());
  const healthy = need.every((purpose) => diagnosis.purposes[purpose].length === 0);
  stdout.write(json ? `${JSON.stringify({ healthy, need, ...diagnosis })}\n` : textOf(diagnosis, need));
  return healthy ? 0 : 1;
}

function textOf({ checks, purposes }: Diagnosis, need: readonly Purpose[]): string {
  const lines = checks.flatMap(({ name, verdict, found, remedy }) => [
    `${name.padEnd(17)} ${MARK[verdict].padEnd(8)} ${found}`,
    ...(remedy === undefined ? [] : [`${''.padEnd(17)} ${''.padEnd(8)} -> ${remedy}`]),
  ]);
  lines.push('');
  for (const [name, what] of Object.entries(PURPOSES)) {
    const missing = purposes[name as Purpose];
    const verdict = missing.length === 0 ? 'yes' : `no: ${missing.join(', ')}`;
    lines.push(`${name.padEnd(17)} ${(need.includes(name as Purpose) ? 'needed' : '').padEnd(8)} ${what}: ${verdict}`);
  }
  return `${lines.join('\n')}\n`;
}
