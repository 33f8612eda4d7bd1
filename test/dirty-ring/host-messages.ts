import type { MachineConfig } from '@godwit/example-node-vmm';

/** The figures of one migration, from its source. */
export interface Moved {
  readonly verified: boolean;
  readonly downtimeMs: number;
  readonly totalMs: number;
  readonly rounds: number;
  /**
   * Of all harvests of the ring: the pages, the failed harvests, and how often a vCPU stopped because its ring was
   * full.
   */
  readonly ringPages: number;
  readonly failures: number;
  readonly ringFull: number;
}

/** Commands to a host, which has at most one guest. */
export type HostCommands = {
  readonly boot: { readonly request: MachineConfig; readonly reply: null };
  /** Prepares to receive the guest; replies with the port to send it to. */
  readonly listen: { readonly request: { readonly dirtyRing: number | boolean }; readonly reply: number };
  readonly send: { readonly request: { readonly port: number }; readonly reply: Moved };
  /** Examines the guest that has arrived; replies with what is wrong with it. */
  readonly adopt: { readonly request: null; readonly reply: readonly string[] };
};

/** How long a host may take to free its guest, in milliseconds. */
export const LAST_RESORT_MS = 10_000;
