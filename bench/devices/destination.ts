import { once } from 'node:events';
import { receive } from '@godwit/core';
import { listenOn, tcp } from '@godwit/transport';
import { onWorkers } from '@godwit/workers';
import type { DeviceCase } from './cases.js';
import { End } from './end.js';

/** The messages of the destination's process: its port, and at the end the memory that it used. */
export type Said = { readonly port: number } | { readonly mostBytes: number };

const [chosen] = (await once(process, 'message')) as [DeviceCase];
const end = new End(chosen);
const links = await listenOn(tcp({ host: '127.0.0.1', port: 0 }));
const incoming = receive(onWorkers(links), { prepare: () => end.vm });
say({ port: links.listener.port });
await incoming.result;
say({ mostBytes: end.mostBytes() });
process.exit();

function say(said: Said): void {
  process.send?.(said);
}
