import type { DowntimeTerm, DowntimeTerms } from '@godwit/core';
import type { PredictionCase } from './cases.js';
import type { Simulated } from './simulated.js';

/** How long closing may take before the process is killed. Milliseconds. */
export const LAST_RESORT_MS = 10_000;

/** The downtime predicted at the decision to switch over, and the actual one. */
export interface Outcome {
  readonly predictedMs: number;
  readonly rangeMs: readonly [low: number, high: number];
  readonly actualMs: number;
  readonly rounds: number;
  readonly attempts: number;
  readonly totalMs: number;
  /** The simulation of the same migration, if requested. */
  readonly simulated?: Simulated;
  readonly terms: Readonly<Record<keyof DowntimeTerms, DowntimeTerm>>;
}

/** Commands to a process with a node-vmm machine, and its answers. */
export interface HostCommands {
  /** Boots the guest and lets it write its working set. */
  boot: { request: PredictionCase; reply: null };
  /** Waits for a guest; replies with the port. */
  listen: { request: PredictionCase; reply: number };
  send: {
    request: { readonly port: number; readonly chosen: PredictionCase; readonly alsoSimulated: boolean };
    reply: Outcome;
  };
  /** Resolves when the guest runs here. */
  arrival: { request: null; reply: null };
  /** Frees the machine. */
  close: { request: null; reply: null };
}

/** The processes send answers only. */
export interface HostMessage {
  readonly type: 'none';
}
