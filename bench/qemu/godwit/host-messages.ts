import type { Departure, GuestSpec, MoveSettings, Patience } from '../vmm.js';

/** How long closing may take before the process is killed: it waits for vCPU threads, of which one may hang in the kernel. Milliseconds. */
export const LAST_RESORT_MS = 10_000;

/** Commands to a process with a node-vmm machine, and its answers. */
export interface HostCommands {
  /** Makes the machine. `source`: its guest runs; `destination`: it waits for a guest. */
  start: {
    request: { readonly spec: GuestSpec; readonly role: 'source' | 'destination'; readonly neverRearm: boolean };
    reply: null;
  };
  listen: { request: { readonly settings: MoveSettings }; reply: number };
  send: {
    request: { readonly port: number; readonly settings: MoveSettings; readonly patience: Patience };
    reply: Departure;
  };
  arrival: { request: null; reply: number };
  faultLatencies: { request: null; reply: readonly number[] };
  /** Pages per millisecond. */
  speed: { request: null; reply: number };
  /** The time at which the arrived guest is as fast as `speed`: milliseconds since 1970. */
  reaches: { request: { readonly speed: number }; reply: number };
  save: { request: { readonly path: string }; reply: null };
  restore: { request: { readonly path: string }; reply: null };
  firstBytes: { request: null; reply: Uint8Array };
}

/** Messages of the process, beside its answers. */
export interface HostMessage {
  readonly type: 'printed';
  readonly text: string;
}
