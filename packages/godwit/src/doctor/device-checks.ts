import type { Check } from './check.js';
import type { HostFacts } from './host-facts.js';
import { gib } from './system-checks.js';

/** Assigned devices: an IOMMU, VFIO or iommufd, and memory that may be locked for DMA. */
export function deviceChecks(facts: HostFacts): Check[] {
  const { linux } = facts;
  if ('reason' in linux) return [];
  const groups = facts.list('/sys/kernel/iommu_groups').length;
  const container = facts.access('/dev/vfio/vfio');
  const iommufd = facts.access('/dev/iommu');
  const assigned = [
    ...facts
      .list('/dev/vfio')
      .filter((name) => /^\d+$/.test(name))
      .map((name) => `group ${name}`),
    ...facts.list('/dev/vfio/devices'),
  ];
  const checks: Check[] = [];
  checks.push(
    groups > 0
      ? { name: 'iommu', verdict: 'ok', found: `${groups} groups`, for: ['vfio'] }
      : {
          name: 'iommu',
          verdict: 'missing',
          found: 'no IOMMU group',
          remedy: 'switch VT-d or AMD-Vi on in the firmware, and boot with intel_iommu=on',
          for: ['vfio'],
        },
  );
  const usable = container === 'usable' || iommufd === 'usable';
  checks.push(
    usable
      ? { name: 'vfio', verdict: 'ok', found: `/dev/vfio/vfio ${container}, /dev/iommu ${iommufd}`, for: ['vfio'] }
      : {
          name: 'vfio',
          verdict: 'missing',
          found: `/dev/vfio/vfio ${container}, /dev/iommu ${iommufd}`,
          remedy:
            container === 'absent' && iommufd === 'absent'
              ? 'modprobe vfio-pci (and iommufd, from Linux 6.2 on)'
              : 'give your user access to the node (a udev rule), or run as root',
          for: ['vfio'],
        },
  );
  checks.push(
    assigned.length > 0
      ? { name: 'assigned devices', verdict: 'ok', found: assigned.join(', '), for: ['vfio'] }
      : {
          name: 'assigned devices',
          verdict: 'note',
          found: 'none',
          remedy: 'bind a device: echo vfio-pci > /sys/bus/pci/devices/ADDRESS/driver_override, then drivers_probe',
          for: [],
        },
  );
  const { lockedLimit, memory } = linux;
  const little = lockedLimit < memory.totalBytes;
  checks.push({
    name: 'locked memory',
    verdict: little ? 'note' : 'ok',
    found: `${lockedLimit < 2 ** 30 ? `${lockedLimit / 2 ** 20} MiB` : gib(lockedLimit)} may be locked (RLIMIT_MEMLOCK)`,
    ...(little && {
      remedy: 'for assigned devices raise it by the size of the guest: ulimit -l, or LimitMEMLOCK= of the service',
    }),
    for: [],
  });
  return checks;
}
