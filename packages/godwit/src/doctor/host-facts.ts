import { accessSync, constants, existsSync, readdirSync, readFileSync } from 'node:fs';
import { arch, availableParallelism, platform, release } from 'node:os';

/** Whether a facility can be used; if not, why, and what to do about it. */
export type Usable = { readonly usable: true } | { readonly usable: false; readonly reason: string };

/** The results of what `@godwit/linux` tried on this host. */
export interface Tried {
  readonly kvm: Usable;
  readonly kvmManualDirtyLog: Usable;
  readonly userfaultfd: Usable;
  readonly userfaultfdKernelFaults: Usable;
  readonly asyncWriteProtect: Usable;
  readonly pagemapScan: Usable;
  readonly accessProtect: Usable;
  readonly transparentHugePages: Usable;
  readonly anonymousHugePages: Usable;
  /** Names of the `UFFD_FEATURE_...` constants, without this prefix. */
  readonly userfaultfdFeatures: readonly string[];
  /** Bytes; `Infinity`: no limit. */
  readonly lockedLimit: number;
  readonly filesLimit: number;
  readonly memory: { readonly totalBytes: number; readonly availableBytes: number };
}

/** The facts that the diagnosis uses. They are read once, and reading changes nothing on the host. */
export interface HostFacts {
  readonly platform: string;
  readonly arch: string;
  readonly kernel: string;
  readonly node: string;
  readonly processors: number;
  /**
   * The results, or the reason why nothing could be tried: the system is not Linux, or `@godwit/linux` does not load.
   */
  readonly linux: Tried | { readonly reason: string };
  /** A file of /proc or /sys, without the line's end; `undefined` if there is none. */
  read(path: string): string | undefined;
  /** The names in a folder; empty if there is no such folder. */
  list(path: string): readonly string[];
  /** Whether a device node exists, and may be opened for reading and writing. */
  access(path: string): 'usable' | 'forbidden' | 'absent';
}

export async function hostFacts(): Promise<HostFacts> {
  return {
    platform: platform(),
    arch: arch(),
    kernel: release(),
    node: process.versions.node,
    processors: availableParallelism(),
    linux: await tried(),
    read(path) {
      try {
        return readFileSync(path, 'utf8').trimEnd();
      } catch {
        return undefined;
      }
    },
    list(path) {
      try {
        return readdirSync(path);
      } catch {
        return [];
      }
    },
    access(path) {
      if (!existsSync(path)) return 'absent';
      try {
        accessSync(path, constants.R_OK | constants.W_OK);
        return 'usable';
      } catch {
        return 'forbidden';
      }
    },
  };
}

async function tried(): Promise<HostFacts['linux']> {
  if (platform() !== 'linux') return { reason: `this is ${platform()}, and guests run on Linux` };
  try {
    const { hostMemory, hostSupport, Userfaultfd } = await import('@godwit/linux');
    const { ResourceLimit, resourceLimit, Uffd } = await import('@godwit/linux/unstable');
    const support = hostSupport();
    const features = support.userfaultfd.usable ? Userfaultfd.available() : 0;
    return {
      ...support,
      userfaultfdFeatures: Object.entries(Uffd).flatMap(([name, bit]) =>
        name.startsWith('UFFD_FEATURE_') && (features & bit) !== 0 ? [name.slice('UFFD_FEATURE_'.length)] : [],
      ),
      lockedLimit: resourceLimit(ResourceLimit.RLIMIT_MEMLOCK),
      filesLimit: resourceLimit(ResourceLimit.RLIMIT_NOFILE),
      memory: hostMemory(),
    };
  } catch (error) {
    return { reason: `@godwit/linux does not load: ${error instanceof Error ? error.message : String(error)}` };
  }
}
