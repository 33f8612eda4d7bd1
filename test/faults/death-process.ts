/** Program of the two processes of a death case. It takes orders from the runner. */
import { GodwitError, migrate, postcopyAfterRound, receive } from '@godwit/core';
import type { VirtualMachine } from '@godwit/example-node-vmm';
import { connectTo, listenOn, tcp } from '@godwit/transport';
import { faulty } from '@godwit/transport/testing';
import { faultThreads } from '@godwit/workers';
import { LiveGuest } from '../guest/live-guest.js';
import type { Death, DeathOrder, DeathReport } from './death-messages.js';
import { atLeastRounds, POSTCOPY_BANDWIDTH, SOURCE_TIMEOUTS, TIMEOUTS } from './run-case.js';

const HOST = '127.0.0.1';
/** Short time limits: a dead process does not come back. */
const PATIENCE = { reconnectTimeoutMs: 1000, settleTimeoutMs: 1000 };

let guest: LiveGuest | undefined;
let onPeerDied: () => void = () => {};
const peerDied = new Promise<void>((resolve) => {
  onPeerDied = resolve;
});

process.on('message', (order: DeathOrder) => {
  carryOut(order).catch((error: unknown) => {
    process.stderr.write(`${error instanceof Error ? error.stack : String(error)}\n`);
    process.exit(1);
  });
});
// The parent process has ended.
process.on('disconnect', () => process.exit(1));

async function carryOut(order: DeathOrder): Promise<void> {
  switch (order.order) {
    case 'receive':
      return receiveGuest(order);
    case 'migrate':
      return migrateGuest(order);
    case 'peer-died':
      return onPeerDied();
    case 'examine': {
      const running = guest?.here ?? false;
      tell({ report: 'examined', running, problems: running ? ((await guest?.examine()) ?? []) : [] });
      return;
    }
    default:
      await guest?.close();
      process.disconnect();
  }
}

function tell(report: DeathReport): void {
  process.send?.(report);
}

function mortal(port: number, death: Death | undefined) {
  const transport = tcp({ host: HOST, port });
  if (death === undefined) return transport;
  const { direction, frame } = death;
  return faulty(transport, {
    faults: [{ kind: 'cut', direction, at: { frame }, stream: 0 }],
    onFault: () => process.kill(process.pid, 'SIGKILL'),
  });
}

async function receiveGuest({ death, postcopy }: Extract<DeathOrder, { order: 'receive' }>): Promise<void> {
  const faults = postcopy ? faultThreads() : undefined;
  const links = await listenOn(mortal(0, death));
  const arriving = new LiveGuest();
  guest = arriving;
  const incoming = receive(links, {
    ...TIMEOUTS,
    ...PATIENCE,
    ...(faults && { faults }),
    prepare: async (description) => arriving.blank(description),
  });
  tell({ report: 'listening', port: Number(new URL(links.address).port) });
  // Ready, and the source is known to be dead: the operator recovers the guest. The engine never does so by a timer.
  const ready = new Promise<void>((resolve) => {
    incoming.subscribe({
      next: (event) => {
        if (event.type === 'ownership' && event.ownership === 'ready') resolve();
      },
      error: () => {},
    });
  });
  void Promise.all([peerDied, ready]).then(async () => {
    if (incoming.ownership !== 'ready') return;
    try {
      await incoming.recover({ sourceIsDead: true });
    } catch (error) {
      // It lacks pages that were only at the source: the guest is lost, and does not run.
      if (!GodwitError.is(error) || error.code !== 'GODWIT_PAGES_MISSING') throw error;
      incoming.cancel();
      return;
    }
    tell({ report: 'recovered', from: 'ready' });
  });
  // The guest runs here, and lacks pages that nobody has any more.
  const lacking = new Promise<void>((resolve) => {
    incoming.subscribe({
      next: (event) => {
        if (event.type === 'state' && event.state === 'postcopy-paused') resolve();
      },
      error: () => {},
    });
  });
  void Promise.all([peerDied, lacking]).then(() => incoming.giveUpPages('the source is dead'));
  // A destination to which no source has connected waits for one: it is cancelled.
  void peerDied.then(() => incoming.state === 'none' && incoming.cancel());
  try {
    const { vm } = await incoming.result;
    await arriving.moved(vm as VirtualMachine);
    tell({ report: 'ended' });
  } catch (error) {
    tell({ report: 'ended', ...described(error) });
  } finally {
    await Promise.all([links.close(), faults?.close()]);
  }
}

async function migrateGuest({ port, death, postcopy }: Extract<DeathOrder, { order: 'migrate' }>): Promise<void> {
  const booted = await LiveGuest.boot();
  guest = booted;
  const migration = migrate(booted.machine, connectTo(mortal(port, death)), {
    ...SOURCE_TIMEOUTS,
    ...PATIENCE,
    description: booted.machine.description,
    ...(postcopy
      ? { postcopy, postcopyBandwidth: POSTCOPY_BANDWIDTH, policy: postcopyAfterRound(2) }
      : { verify: true, policy: atLeastRounds(3) }),
  });
  try {
    await migration.result;
    await booted.close();
    guest = undefined;
    tell({ report: 'ended' });
  } catch (error) {
    if (GodwitError.is(error) && error.code === 'GODWIT_OWNERSHIP_UNKNOWN') {
      await peerDied;
      await migration.recover({ destinationIsDead: true });
      tell({ report: 'recovered', from: error.code });
    }
    tell({ report: 'ended', ...described(error) });
  }
}

function described(error: unknown): { readonly code: string; readonly message: string } {
  return GodwitError.is(error)
    ? { code: error.code, message: error.message }
    : { code: 'not a GodwitError', message: String(error) };
}
