import type { DeviceShape } from './waiting-device.js';

/** Devices that are migrated, on a VM of 16 MiB over TCP. */
export interface DeviceCase {
  readonly name: string;
  readonly devices: readonly DeviceShape[];
  /** Bytes per second of the link; by default the rate of loopback. */
  readonly linkRate?: number;
  readonly pageChannels?: number;
  readonly force?: boolean;
  readonly downtimeLimitMs?: number;
}

const MB = 1e6;

/** Milliseconds that each of four devices waits while it saves, and while it loads. */
const WAIT_MS = 400;

function four(parallel: boolean): DeviceShape[] {
  return Array.from({ length: 4 }, () => ({ bytes: 4096, saveMs: WAIT_MS, loadMs: WAIT_MS, parallel }));
}

/** `bytes` is the size of the large devices' state, and `linkRate` the rate of the slow link. */
export function deviceCases(bytes: number, linkRate: number): readonly DeviceCase[] {
  const megabytes = `${bytes / MB} MB at ${linkRate / MB} MB/s`;
  return [
    { name: 'four devices that wait, one after the other', devices: four(false), downtimeLimitMs: 10_000 },
    { name: 'four devices that wait, at once', devices: four(true), downtimeLimitMs: 10_000 },
    {
      name: `iterative, ${megabytes}`,
      devices: [{ bytes, precopyBytes: bytes - MB }],
      linkRate,
      downtimeLimitMs: 5000,
    },
    { name: `stop-only, ${megabytes}, force`, devices: [{ bytes }], linkRate, force: true },
    {
      name: `stop-only, ${megabytes}, a limit of 600 s`,
      devices: [{ bytes }],
      linkRate,
      downtimeLimitMs: 600_000,
    },
    {
      name: `iterative, loads at a tenth of the link`,
      devices: [{ bytes, precopyBytes: bytes - MB, loadRate: 10 * MB }],
      linkRate: 100 * MB,
      downtimeLimitMs: 5000,
    },
    {
      name: '4,000 devices of 100 bytes',
      devices: Array.from({ length: 4000 }, () => ({ bytes: 100 })),
      pageChannels: 2,
      downtimeLimitMs: 60_000,
    },
  ];
}
