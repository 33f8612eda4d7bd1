import type { Beat } from './heartbeat-watch.js';
import type { GuestSpec } from './guest-spec.js';

export function chooseGuestKind(kvm: boolean): GuestSpec['kind'] {
  return kvm ? 'kvm' : 'software';
}

export function parseBeat(line: string): Beat | undefined {
  const match = /^\[guest\] heartbeat (\d+) clock=\d+us gap=\d+us stall=(\d+)us writes=(\d+)/.exec(line);
  return match === null ? undefined : { count: Number(match[1]), stallMs: Number(match[2]) / 1000, writes: Number(match[3]) };
}
