import { type CaseName, caseOf } from '../qemu/cases.js';
import { withFolders } from '../qemu/folders.js';
import { godwitVmm } from '../qemu/godwit/godwit-vmm.js';
import { qemuVmm } from '../qemu/qemu/qemu-vmm.js';
import { NEWEST, NoQemu, unpackedQemu } from '../qemu/qemu/unpacked-qemu.js';

/** The cases of the judge in which QEMU predicts a downtime. */
const CASES: readonly CaseName[] = ['sweep', 'sweep-limited'];

const ms = (value: number | undefined): string => (value === undefined ? 'nothing' : `${value.toFixed(0)} ms`);

/**
 * Compares QEMU's own prediction, `expected-downtime`, with the actual downtime: the newest QEMU and Godwit move the sweep guest `times`
 * times each, in turns. Returns a line for each move; without QEMU, a line with the reason.
 */
export async function qemuFigures(times: number): Promise<readonly string[]> {
  const report = (text: string): void => void process.stderr.write(`prediction: ${text}\n`);
  try {
    const qemu = await unpackedQemu(NEWEST, report);
    return await withFolders(async (memory, disk) => {
      const contestants = { newest: qemuVmm(qemu, memory), older: undefined, godwit: godwitVmm('Godwit'), disk };
      const lines: string[] = [];
      for (const name of CASES) {
        const { title, entrants } = caseOf(name, contestants);
        lines.push(`${name}: ${title}`);
        for (let time = 0; time < times; time++) {
          for (const entrant of entrants) {
            const { predictedDowntimeMs, downtimeMs } = (await entrant.measure()).figures;
            lines.push(`  ${entrant.name}: says ${ms(predictedDowntimeMs)}, really ${ms(downtimeMs)}`);
          }
        }
      }
      return lines;
    });
  } catch (error) {
    if (!(error instanceof NoQemu)) throw error;
    return [`QEMU's own figure is not beside it: ${error.message}`];
  }
}
