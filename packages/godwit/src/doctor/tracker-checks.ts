import type { Check } from './check.js';
import type { HostFacts, Tried } from './host-facts.js';

/** KVM's kernel modules, each for one kind of processor, and their names in the report. */
const KVM_KINDS: Readonly<Record<string, string>> = {
  kvm_intel: 'VT-x',
  kvm_amd: 'AMD-V',
  kvm_pvm: 'PVM, in software: some instructions are emulated',
};

const THP = '/sys/kernel/mm/transparent_hugepage';

/** Checks the facilities that detect written pages and serve missing pages. */
export function trackerChecks(facts: HostFacts): Check[] {
  const { linux } = facts;
  if ('reason' in linux) return [];
  return [...kvmChecks(facts, linux), ...faultChecks(linux), hugePageCheck(facts, linux)];
}

function kvmChecks(facts: HostFacts, { kvm, kvmManualDirtyLog }: Tried): Check[] {
  if (!kvm.usable) {
    const { access } = facts;
    const virtual = isVirtual(facts);
    const remedies = {
      absent: virtual
        ? 'this is a virtual machine: switch nested virtualization on at its host, then modprobe kvm_intel or kvm_amd'
        : 'switch virtualization on in the firmware, then modprobe kvm_intel or kvm_amd',
      forbidden: 'add your user to the group of /dev/kvm (usermod -aG kvm), and log in again',
      usable: 'see the reason',
    };
    return [{ name: 'kvm', verdict: 'missing', found: kvm.reason, remedy: remedies[access('/dev/kvm')], for: ['kvm'] }];
  }
  const kind = Object.keys(KVM_KINDS).find((module) => facts.list('/sys/module').includes(module));
  const where = isVirtual(facts) ? 'nested in a virtual machine' : 'on the machine itself';
  const found = `/dev/kvm works, ${kind === undefined ? '' : `${KVM_KINDS[kind]}, `}${where}`;
  return [
    { name: 'kvm', verdict: 'ok', found, for: ['kvm'] },
    kvmManualDirtyLog.usable
      ? {
          name: 'kvm dirty log',
          verdict: 'ok',
          found: 'is re-armed piece by piece, while pages are sent',
          for: ['kvm'],
        }
      : {
          name: 'kvm dirty log',
          verdict: 'note',
          found: `is re-armed as a whole: ${kvmManualDirtyLog.reason}`,
          remedy: 'it works; with Linux 5.0 or newer a harvest disturbs the guest less',
          for: [],
        },
  ];
}

function faultChecks(linux: Tried): Check[] {
  const { userfaultfd, userfaultfdKernelFaults: kernel, asyncWriteProtect, pagemapScan } = linux;
  const { userfaultfdFeatures: features } = linux;
  const checks: Check[] = [];
  if (!userfaultfd.usable) {
    checks.push({
      name: 'userfaultfd',
      verdict: 'missing',
      found: userfaultfd.reason,
      remedy:
        'use a kernel with CONFIG_USERFAULTFD, and let seccomp (Docker: --security-opt seccomp=...) pass the call',
      for: ['move', 'at-once'],
    });
    return checks;
  }
  checks.push({ name: 'userfaultfd', verdict: 'ok', found: features.join(' '), for: ['move', 'at-once'] });
  checks.push(
    kernel.usable
      ? {
          name: 'kernel faults',
          verdict: 'ok',
          found: "userfaultfd serves the kernel's faults, KVM's too",
          for: ['at-once'],
        }
      : {
          name: 'kernel faults',
          verdict: 'missing',
          found: kernel.reason,
          remedy: 'give your user access to /dev/userfaultfd, or sysctl vm.unprivileged_userfaultfd=1',
          for: ['at-once'],
        },
  );
  if (!features.includes('POISON')) {
    checks.push({
      name: 'poisoned pages',
      verdict: 'missing',
      found: 'the kernel cannot mark a page that will never come (UFFDIO_POISON)',
      remedy: 'use Linux 6.6 or newer',
      for: ['at-once'],
    });
  }
  const tracks = asyncWriteProtect.usable && pagemapScan.usable;
  const reason = [asyncWriteProtect, pagemapScan]
    .map((one) => (one.usable ? '' : one.reason))
    .find((text) => text !== '');
  checks.push(
    tracks
      ? { name: 'pagemap', verdict: 'ok', found: "this process's own writes are seen, and the guest's", for: ['move'] }
      : {
          name: 'pagemap',
          verdict: 'missing',
          found: reason ?? 'cannot be used',
          remedy: "use Linux 6.7 or newer; KVM's dirty log alone sees no writes of the VMM itself",
          for: ['move'],
        },
  );
  const { accessProtect } = linux;
  checks.push(
    accessProtect.usable
      ? { name: 'accesses', verdict: 'ok', found: 'which pages a guest reads and writes can be watched', for: [] }
      : {
          name: 'accesses',
          verdict: 'note',
          found: `which pages a guest reads cannot be watched: ${accessProtect.reason}`,
          remedy: 'nothing needs it; with Linux 7.3 or newer AccessTracker shows the working set',
          for: [],
        },
  );
  return checks;
}

function hugePageCheck({ read, list }: HostFacts, { transparentHugePages, anonymousHugePages }: Tried): Check {
  const pools = list('/sys/kernel/mm/hugepages').flatMap((folder) => {
    const path = `/sys/kernel/mm/hugepages/${folder}`;
    const total = Number(read(`${path}/nr_hugepages`) ?? 0);
    const kib = Number(/-(\d+)kB$/.exec(folder)?.[1] ?? 0);
    return total > 0 ? [`${total} of ${kib / 1024} MiB, ${read(`${path}/free_hugepages`)} free`] : [];
  });
  const settings = `transparent: ${chosen(read(`${THP}/enabled`))}, for shared memory ${chosen(read(`${THP}/shmem_enabled`))}`;
  const found = `${settings}; reserved: ${pools.join(', ') || 'none'}`;
  if (anonymousHugePages.usable || transparentHugePages.usable || pools.length > 0)
    return { name: 'huge pages', verdict: 'ok', found, for: ['huge-pages'] };
  return {
    name: 'huge pages',
    verdict: 'missing',
    found: `${found}: ${anonymousHugePages.reason}`,
    remedy: `echo madvise > ${THP}/enabled, or reserve some: sysctl vm.nr_hugepages=1024`,
    for: ['huge-pages'],
  };
}

function chosen(setting: string | undefined): string {
  return /\[(\w+)\]/.exec(setting ?? '')?.[1] ?? 'no such setting';
}

function isVirtual({ read }: HostFacts): boolean {
  return /^flags\s*:.*\bhypervisor\b/m.test(read('/proc/cpuinfo') ?? '');
}
