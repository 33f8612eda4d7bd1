import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

type Usable = { readonly usable: true } | { readonly usable: false; readonly reason: string };

/** How a host differs from one that has everything. */
export interface FakeHost {
  readonly node?: string;
  readonly platform?: string;
  readonly linux?: { readonly reason: string };
  readonly tried?: Readonly<Record<string, Usable | number | readonly string[]>>;
  /** Nodes that are not there, or may not be opened. */
  readonly absent?: readonly string[];
  readonly forbidden?: readonly string[];
  /** Folders in which nothing is. */
  readonly empty?: readonly string[];
  readonly files?: Readonly<Record<string, string>>;
  readonly virtual?: boolean;
}

interface Diagnosis {
  readonly checks: readonly {
    readonly name: string;
    readonly verdict: 'ok' | 'note' | 'missing';
    readonly found: string;
    readonly remedy?: string;
  }[];
  readonly purposes: Readonly<Record<string, readonly string[]>>;
}

// It is no part of the package's API.
const { diagnose } = (await import(
  pathToFileURL(join(import.meta.dirname, '..', 'dist', 'doctor', 'diagnosis.js')).href
)) as { readonly diagnose: (facts: object) => Diagnosis };

const YES = { usable: true } as const;

const FOLDERS: Readonly<Record<string, readonly string[]>> = {
  '/sys/module': ['kvm', 'kvm_intel'],
  '/sys/kernel/iommu_groups': ['0', '1'],
  '/dev/vfio': ['vfio', '12'],
  '/dev/vfio/devices': ['vfio0'],
  '/sys/kernel/mm/hugepages': ['hugepages-2048kB'],
};

/** The diagnosis of a host that has everything but what is said. */
export function diagnosisOf(host: FakeHost): Diagnosis {
  const files: Record<string, string> = {
    '/proc/cpuinfo': `flags : fpu vmx${host.virtual ? ' hypervisor' : ''}`,
    '/proc/sys/vm/max_map_count': '65530',
    '/proc/self/limits': 'Max realtime priority     0                    0',
    '/proc/self/status': 'Name:\tnode\nCapEff:\t000001ffffffffff\nCapBnd:\t000001ffffffffff',
    ...host.files,
  };
  return diagnose({
    platform: host.platform ?? 'linux',
    arch: 'x64',
    kernel: '7.3.0',
    node: host.node ?? '24.1.0',
    processors: 8,
    linux: host.linux ?? {
      kvm: YES,
      kvmManualDirtyLog: YES,
      userfaultfd: YES,
      userfaultfdKernelFaults: YES,
      asyncWriteProtect: YES,
      pagemapScan: YES,
      accessProtect: YES,
      transparentHugePages: YES,
      anonymousHugePages: YES,
      userfaultfdFeatures: ['MISSING_SHMEM', 'POISON', 'WP_ASYNC'],
      lockedLimit: Number.POSITIVE_INFINITY,
      filesLimit: 2 ** 20,
      memory: { totalBytes: 2 ** 36, availableBytes: 2 ** 35 },
      ...host.tried,
    },
    read: (path: string) => files[path],
    list: (path: string) => (host.empty?.includes(path) ? [] : (FOLDERS[path] ?? [])),
    access: (path: string) =>
      host.absent?.includes(path) ? 'absent' : host.forbidden?.includes(path) ? 'forbidden' : 'usable',
  });
}
