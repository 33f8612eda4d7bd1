/** Program of a worker process: it has its own guest and runs one case at a time. */
import { LiveGuest } from '../guest/live-guest.js';
import { UNCUT } from './all-cases.js';
import type { CaseOrder, CaseReport, CaseResult } from './case-messages.js';
import type { ByteCount } from './counting.js';
import { parseCase } from './fault-case.js';
import { leftovers, settledLeftovers } from './leftovers.js';
import { type FaultResult, runCase } from './run-case.js';
import { parseDeath, runDeath } from './run-death.js';
import { parseWhole, runWhole } from './whole-case.js';

process.on('unhandledRejection', (error) => fail('an error that nobody handled', error));
process.on('message', (order: CaseOrder) => {
  carryOut(order).catch((error: unknown) => fail('an order could not be carried out', error));
});
// The parent process has ended.
process.on('disconnect', () => process.exit(1));

const guest = await LiveGuest.boot();
// The first runs load and compile everything: the resources held after them are the base for comparison.
const short = await runCase(guest, parseCase(UNCUT.out), 1);
const long = await runCase(guest, parseCase(UNCUT.in), 1);
const back = await runCase(guest, parseCase(UNCUT.back), 1);
const postcopy = await runCase(guest, parseCase(UNCUT.postcopy), 1);
const before = await leftovers();
// The guest is paused between cases, so that it takes no processor time from other workers.
await guest.machine.pause();
tell({
  report: 'ready',
  bytes: {
    out: control(short).out,
    in: control(long).in,
    backOut: control(back).out,
    backIn: control(back).in,
    postcopy: { from: postcopy.precopied ?? control(postcopy), control: control(postcopy), urgent: urgent(postcopy) },
  },
  problems: [short, long, back, postcopy].flatMap(({ problems }) => problems),
});

function control({ bytes }: FaultResult): ByteCount {
  return bytes[0] as ByteCount;
}

function urgent({ bytes }: FaultResult): ByteCount {
  return bytes[1] as ByteCount;
}

async function carryOut(order: CaseOrder): Promise<void> {
  if (order.order === 'run') {
    tell({ report: 'done', result: await run(order.name, order.seed).catch(thrown) });
    return;
  }
  tell({ report: 'ended', before, after: await settledLeftovers(before) });
  await guest.close();
  process.disconnect();
}

async function run(name: string, seed: number): Promise<CaseResult> {
  const death = parseDeath(name);
  if (death !== undefined) return runDeath(death);
  await guest.machine.resume();
  try {
    const whole = parseWhole(name);
    if (whole !== undefined) return await runWhole(whole, guest);
    const { struck, ending, problems } = await runCase(guest, parseCase(name), seed);
    return { struck, ending, problems };
  } finally {
    if (guest.here) await guest.machine.pause();
  }
}

function thrown(error: unknown): CaseResult {
  return { struck: true, ending: 'threw', problems: [textOf(error)] };
}

function tell(report: CaseReport): void {
  process.send?.(report);
}

function fail(what: string, error: unknown): void {
  process.stderr.write(`${what}: ${textOf(error)}\n`);
  process.exit(1);
}

function textOf(error: unknown): string {
  return error instanceof Error ? (error.stack ?? error.message) : String(error);
}
