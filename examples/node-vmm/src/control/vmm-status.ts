import type { Vmm } from '../vmm/vmm.js';
import { errorAnswer } from './control-error.js';
import type { VmmStatus } from './control-protocol.js';

/** The status of a VMM, as plain data. */
export function statusOf(vmm: Vmm): VmmStatus {
  const { guest, incoming, departure, address } = vmm;
  const description = guest?.vm === undefined ? undefined : guest.description;
  return {
    pid: process.pid,
    guest: guestState(vmm),
    ...(guest !== undefined &&
      description !== undefined && {
        machine: {
          kind: description.kind,
          memoryBytes: description.memoryBytes,
          vcpus: description.vcpus,
          allocatedBytes: guest.state === 'closed' ? 0 : guest.allocatedBytes(),
          ...(guest.balloonBytes !== undefined && { balloonBytes: guest.balloonBytes }),
        },
      }),
    ...(address !== undefined && { listening: address }),
    ...(departure !== undefined && {
      migration: { to: departure.to, guest: departure.whereabouts, ...plain(departure.migration.status()) },
    }),
    ...(incoming !== undefined && { incoming: plain(incoming.status()) }),
  };
}

function guestState({ guest, departure }: Vmm): VmmStatus['guest'] {
  if (guest === undefined) return 'empty';
  if (departure?.whereabouts === 'there') return 'moved';
  if (departure?.whereabouts === 'unknown') return 'unknown';
  return guest.state === 'running' || guest.state === 'paused' ? guest.state : 'ended';
}

/** The status with its error as data; undefined fields are left out. */
function plain<Status extends { readonly error: Error | undefined }>({ error, ...status }: Status) {
  const defined = Object.fromEntries(Object.entries(status).filter(([, value]) => value !== undefined));
  return {
    ...(defined as unknown as { [Key in keyof typeof status]: Exclude<(typeof status)[Key], undefined> }),
    ...(error !== undefined && { error: errorAnswer(error, 'migrate') }),
  };
}
