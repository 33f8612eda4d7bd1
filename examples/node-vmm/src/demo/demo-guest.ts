import { GodwitError, type MigratableVm } from '@godwit/core';
import type { GuestSpec } from './guest-spec.js';
import type { CheckReport } from './host-protocol.js';
import type { Sabotage } from './options.js';

/** A guest as a host holds it, whether it has booted here or is arriving. */
export interface DemoGuest {
  readonly spec: GuestSpec;
  readonly vm: MigratableVm;
  /** What a person should know, such as why there is no KVM. */
  readonly note: string | undefined;
  /** Loads the bundled guest and runs it. Only where the guest begins its life. */
  boot(): Promise<void>;
  /** Looks at every page from outside; the guest is paused. */
  check(): CheckReport;
  /** Memory that the host has really given to the guest. */
  allocatedBytes(): number;
  close(): Promise<void>;
}

export interface GuestSurroundings {
  readonly sabotage: Sabotage | undefined;
  readonly onConsole: (text: string) => void;
  readonly onDefect: (message: string) => void;
}

export function chooseGuestKind(kvm: boolean): GuestSpec['kind'] {
  return kvm ? 'kvm' : 'software';
}

export async function buildGuest(spec: GuestSpec, _surroundings: GuestSurroundings): Promise<DemoGuest> {
  throw new GodwitError('GODWIT_UNSUPPORTED', `no ${spec.kind} guest yet`);
}
