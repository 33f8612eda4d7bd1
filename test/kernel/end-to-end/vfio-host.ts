/** The program of a host process of the end-to-end test: `source` or `destination`, with orders and reports over IPC. */
import { GodwitError, migrate, type RoundRecord, receive, roundCap } from '@godwit/core';
import { Machine } from '@godwit/example-node-vmm';
import { connectTo, listenOn, tcp } from '@godwit/transport';
import { filter, firstValueFrom } from 'rxjs';
import type { DestinationReport, SourceOrder, SourceReport } from './vfio-host-report.js';
import { VfioMachine } from './vfio-machine.js';

const MEMORY_BYTES = 16 * 2 ** 20;
const ROUNDS = 4;

async function source({ port, blind, moving, text }: SourceOrder): Promise<SourceReport> {
  const machine = await Machine.create({
    memoryBytes: MEMORY_BYTES,
    vcpus: 1,
    workload: { workingSetBytes: 2 ** 20, order: 'random', wholePages: true, pagesPerSecond: 300 },
  });
  const vfio = await VfioMachine.around(machine);
  const beats = firstValueFrom(machine.console.pipe(filter((line) => line.includes('writes='))));
  await machine.resume();
  await beats;
  vfio.type(text);
  vfio.startDma();
  if (moving !== undefined) await vfio.startMoving(moving === 'ordered');
  const rounds: RoundRecord[] = [];
  const migration = migrate(await vfio.vm(blind), connectTo(tcp({ host: '127.0.0.1', port })), {
    description: machine.description,
    verify: true,
    // An emulated machine is slow. The number of rounds is fixed, since the test needs DMA to go on over several rounds.
    policy: roundCap(ROUNDS, 'switchover'),
  });
  migration.subscribe({ next: (event) => event.type === 'round' && rounds.push(event.round), error: () => {} });
  const outcome = await migration.result.then(
    (summary) => ({ verified: summary.verified, pages: summary.verifiedPages, downtimeMs: summary.downtimeMs }),
    (error: unknown) => ({ code: GodwitError.is(error) ? error.code : String(error), message: String(error) }),
  );
  const { writes, moves } = vfio;
  await vfio.stopDma();
  const { state } = machine;
  const report: SourceReport = {
    outcome,
    state,
    writes,
    moves,
    rounds: rounds.map(({ phase, trackers, newlyDirtyPages }) => ({ phase, trackers, newlyDirtyPages })),
    dmaDigest: vfio.dmaDigest(),
    // If the guest stayed here, the port answers here.
    answer: state === 'running' ? vfio.answer() : '',
    defects: (await vfio.check()).defects,
  };
  await vfio.close();
  return report;
}

async function destination(): Promise<DestinationReport> {
  const listener = await listenOn(tcp({ host: '127.0.0.1', port: 0 }));
  let arriving: VfioMachine | undefined;
  const incoming = receive(listener, {
    prepare: async (description) => {
      arriving = await VfioMachine.around(await Machine.fromDescription(description));
      return arriving.vm(false);
    },
  });
  incoming.subscribe({ error: () => {} });
  send({ port: listener.listener.port });
  try {
    await incoming.result;
    const vfio = arriving as VfioMachine;
    const { machine } = vfio;
    await firstValueFrom(machine.console.pipe(filter((line) => line.includes('writes='))));
    return { arrived: true, ...(await vfio.check()), dmaDigest: vfio.dmaDigest(), answer: vfio.answer() };
  } catch (error) {
    return { arrived: false, code: GodwitError.is(error) ? error.code : String(error) };
  } finally {
    await arriving?.close();
    await listener.close();
  }
}

function send(message: object): void {
  process.send?.(message);
}

process.once('message', (order) => {
  const { role } = order as { readonly role: 'source' | 'destination' };
  const work = role === 'source' ? source(order as SourceOrder) : destination();
  work
    .then(
      (report) => send({ report }),
      (error: unknown) => send({ error: error instanceof Error ? (error.stack ?? error.message) : String(error) }),
    )
    .finally(() => process.disconnect());
});
