import type { MachineConfig } from '@godwit/example-node-vmm';

/** What one migration was like, as its source saw it. */
export interface Moved {
  readonly verified: boolean;
  readonly downtimeMs: number;
  readonly totalMs: number;
  readonly rounds: number;
  /** Of all harvests of the ring: pages, harvests that failed, and how often a vCPU stood before a full ring. */
  readonly ringPages: number;
  readonly failures: number;
  readonly ringFull: number;
}

/** Commands to a host, which has at most one guest. */
export type HostCommands = {
  readonly boot: { readonly request: MachineConfig; readonly reply: null };
  /** Makes ready for the guest; the port to send it to. */
  readonly listen: { readonly request: { readonly dirtyRing: number | boolean }; readonly reply: number };
  readonly send: { readonly request: { readonly port: number }; readonly reply: Moved };
  /** The guest that has arrived is examined: what is wrong with it. */
  readonly adopt: { readonly request: null; readonly reply: readonly string[] };
};

/** How long a host may take to free its guest, in milliseconds. */
export const LAST_RESORT_MS = 10_000;
