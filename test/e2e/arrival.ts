/**
 * A destination on its own: as a command it receives one guest from its standard input and writes its findings to the
 * file that its argument names; as a worker it receives one guest through the `MessagePort` in its `workerData`.
 */
import { renameSync, writeFileSync } from 'node:fs';
import { isMainThread, type MessagePort, parentPort, workerData } from 'node:worker_threads';
import { receive } from '@godwit/core';
import type { VirtualMachine } from '@godwit/example-node-vmm';
import { type Listener, listenOn, messagePort, stdio } from '@godwit/transport';
import { LiveGuest } from '../guest/live-guest.js';

export interface Arrival {
  readonly running: boolean;
  readonly problems: readonly string[];
}

const transport = isMainThread ? stdio() : messagePort(workerData as MessagePort);
const links = await listenOn<Listener>(transport);
const guest = new LiveGuest();
const { vm } = await receive(links, { prepare: (description) => guest.blank(description) }).result;
await guest.moved(vm as VirtualMachine);
const arrival: Arrival = { running: guest.here, problems: await guest.examine() };
if (isMainThread) {
  const path = process.argv[2] as string;
  writeFileSync(`${path}.part`, JSON.stringify(arrival));
  renameSync(`${path}.part`, path);
} else parentPort?.postMessage(arrival);
await guest.close();
await links.close();
if (!isMainThread) (workerData as MessagePort).close();
