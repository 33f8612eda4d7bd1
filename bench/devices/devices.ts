import { fork } from 'node:child_process';
import { once } from 'node:events';
import { migrate, reclaim } from '@godwit/core';
import { connectTo, tcp } from '@godwit/transport';
import { limited } from '@godwit/transport/testing';
import { onWorkers } from '@godwit/workers';
import { printReport, type Row } from '../report.js';
import { type DeviceCase, deviceCases } from './cases.js';
import type { Said } from './destination.js';
import { End } from './end.js';

export interface DevicesOptions {
  /** The state of the large devices. MB. */
  readonly size: number;
  /** The rate of the slow link. MB/s. */
  readonly link: number;
  /** Only cases whose name contains this text. */
  readonly only: string;
  readonly json: boolean;
}

interface Moved {
  readonly chosen: DeviceCase;
  readonly totalMs: number;
  readonly downtimeMs: number;
  readonly predictedMs: number;
  readonly sourceBytes: number;
  readonly destinationBytes: number;
}

/**
 * The most memory that either end may use beside the guest's: the device state that a destination holds by default, and the
 * engine's own. MiB.
 */
const MOST_MIB = 320;

/** Migrates VMs with many, large, slow and waiting devices to another process, over TCP; every byte of state is checked there. */
export async function devicesBenchmark({ size, link, only, json }: DevicesOptions): Promise<void> {
  const chosen = deviceCases(size * 1e6, link * 1e6).filter(({ name }) => name.includes(only));
  const moved: Moved[] = [];
  for (const one of chosen) moved.push(await move(one));
  const waited = moved.filter((one) => one.chosen.name.startsWith('four'));
  const [serial, parallel] = waited;
  const rows: Row[] = moved.flatMap(rowsOf);
  if (serial !== undefined && parallel !== undefined) {
    rows.push({
      name: 'four devices that wait: downtime at once / one after the other',
      value: parallel.downtimeMs / serial.downtimeMs,
      unit: '',
      atMost: 0.4,
    });
  }
  const notes = ['memory is what a process used beside its guest at most, and what it did before'];
  printReport({ benchmark: 'devices: their state from one process to another', rows, notes }, json);
}

function rowsOf({ chosen, totalMs, downtimeMs, predictedMs, sourceBytes, destinationBytes }: Moved): Row[] {
  const { name } = chosen;
  return [
    { name: `${name}: total`, value: totalMs, unit: 'ms' },
    { name: `${name}: downtime`, value: downtimeMs, unit: 'ms' },
    { name: `${name}: downtime predicted`, value: predictedMs, unit: 'ms' },
    { name: `${name}: source memory`, value: sourceBytes / 2 ** 20, unit: 'MiB', atMost: MOST_MIB },
    { name: `${name}: destination memory`, value: destinationBytes / 2 ** 20, unit: 'MiB', atMost: MOST_MIB },
  ];
}

async function move(chosen: DeviceCase): Promise<Moved> {
  const { linkRate, force = false, downtimeLimitMs = 300 } = chosen;
  const destination = fork(new URL('./destination.js', import.meta.url));
  destination.send(chosen);
  const [listening] = (await once(destination, 'message')) as [Extract<Said, { port: number }>];
  const used = once(destination, 'message') as Promise<[Extract<Said, { mostBytes: number }>]>;
  const end = new End(chosen);
  const there = tcp({ host: '127.0.0.1', port: listening.port });
  const connector = linkRate === undefined ? onWorkers(connectTo(there)) : connectTo(limited(there, linkRate));
  try {
    const pageChannels = linkRate === undefined ? (chosen.pageChannels ?? 'auto') : 0;
    const migration = migrate(end.vm, connector, { force, downtimeLimitMs, pageChannels });
    const { totalMs, downtimeMs, predictedDowntimeMs } = await migration.result;
    reclaim(end.vm, { because: 'its vCPUs do nothing at either end' });
    const [{ mostBytes }] = await used;
    return {
      chosen,
      totalMs,
      downtimeMs,
      predictedMs: predictedDowntimeMs,
      sourceBytes: end.mostBytes(),
      destinationBytes: mostBytes,
    };
  } finally {
    end.close();
    destination.kill();
  }
}
