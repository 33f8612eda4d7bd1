import { SyscallError } from '@godwit/linux';
import type { KernelPort } from '@godwit/vfio';
import { Type1, Vfio } from '@godwit/vfio/unstable';
import { call, cString, type Descriptor, DirtyPages, dirtyPages, mapDma, u32 } from '../guest/vfio-calls.js';
import type { ConformanceRow } from './conformance-row.js';

/** A container that was just opened, and a mediated device's group that is in no container yet. */
export interface SetUpBench {
  readonly port: KernelPort;
  readonly container: Descriptor;
  readonly group: Descriptor;
  readonly groupNumber: number;
  /** The device's name. */
  readonly name: string;
  readonly unmapped: bigint;
  /** Keeps a descriptor open until the row's end; returns it. */
  keep(fd: number): number;
}

type SetUpRow = ConformanceRow<SetUpBench>;

function setContainer({ container, group }: SetUpBench, fd = container.fd): number {
  return call(group, Vfio.VFIO_GROUP_SET_CONTAINER, u32(fd));
}

function setIommu({ container }: SetUpBench, type: number = Vfio.VFIO_TYPE1v2_IOMMU): number {
  return call(container, Vfio.VFIO_SET_IOMMU, type);
}

function deviceFd(bench: SetUpBench, name = bench.name): number {
  const fd = call(bench.group, Vfio.VFIO_GROUP_GET_DEVICE_FD, cString(name));
  return fd < 0 ? fd : bench.keep(fd) * 0;
}

/** The last of these calls; those before it must succeed. */
function after(...calls: readonly ((bench: SetUpBench) => number)[]): (bench: SetUpBench) => number {
  return (bench) => calls.reduce((result, next) => (result < 0 ? throwFailed(result) : next(bench)), 0);
}

function throwFailed(result: number): never {
  throw new Error(`a call that only prepares the row failed with ${result}`);
}

const ready = [setContainer, setIommu] as const;
const extension = (id: number) => (bench: SetUpBench) => call(bench.container, Vfio.VFIO_CHECK_EXTENSION, id);
const isCalled = (id: number): string =>
  (
    ({
      1: 'TYPE1',
      3: 'TYPE1v2',
      4: 'DMA_CC',
      6: 'NESTING',
      7: 'SPAPR_TCE_v2',
      8: 'NOIOMMU',
      9: 'UNMAP_ALL',
      10: 'UPDATE_VADDR',
      11: 'unknown',
    }) as Record<number, string>
  )[id] ?? '';

/** linux/vfio.h: VFIO_*_IOMMU, VFIO_UNMAP_ALL, VFIO_UPDATE_VADDR, and a number that is not an extension. */
const EXTENSIONS_BEFORE = {
  1: 1,
  3: 1,
  4: 0,
  6: { from: { '6.12': 1, '7.3': 0 } },
  7: 0,
  8: 0,
  9: 1,
  10: 0,
  11: 0,
} as const;
/**
 * With only a mediated device, every domain enforces cache coherency, since there is no domain. And a vaddr cannot be
 * updated.
 */
const EXTENSIONS_AFTER = { ...EXTENSIONS_BEFORE, 4: 1 } as const;

/** Containers, groups and devices: container.c and group.c. */
export const setUpTable: readonly SetUpRow[] = [
  {
    when: 'GET_API_VERSION',
    line: 'container.c:335',
    call: ({ container }) => call(container, Vfio.VFIO_GET_API_VERSION),
    result: 0,
  },
  ...Object.entries(EXTENSIONS_BEFORE).map(
    ([id, result]): SetUpRow => ({
      when: `CHECK_EXTENSION ${id}, ${isCalled(Number(id))}, before SET_IOMMU`,
      line: 'container.c:184, vfio_iommu_type1.c:2642',
      call: extension(Number(id)),
      result,
    }),
  ),
  ...Object.entries(EXTENSIONS_AFTER).map(
    ([id, result]): SetUpRow => ({
      when: `CHECK_EXTENSION ${id}, ${isCalled(Number(id))}, after SET_IOMMU with a mediated device`,
      line: 'vfio_iommu_type1.c:2642',
      call: after(...ready, extension(Number(id))),
      result,
    }),
  ),
  {
    when: 'IOMMU_GET_INFO before SET_IOMMU',
    line: 'container.c:333',
    call: ({ container }) => call(container, Type1.VFIO_IOMMU_GET_INFO, new Uint8Array(24)),
    result: 'EINVAL',
  },
  {
    when: 'DIRTY_PAGES before SET_IOMMU',
    line: 'container.c:333',
    call: ({ container }) => dirtyPages(container, DirtyPages.START),
    result: 'EINVAL',
  },
  {
    when: 'MAP_DMA before SET_IOMMU',
    line: 'container.c:333',
    call: ({ container }) => mapDma(container, { vaddr: 0, iova: 0, size: 4096 }),
    result: 'EINVAL',
  },
  { when: 'SET_IOMMU without a group', line: 'container.c:276', call: (bench) => setIommu(bench), result: 'EINVAL' },
  { when: 'SET_IOMMU twice', line: 'container.c:276', call: after(...ready, setIommu), result: 'EINVAL' },
  {
    when: 'SET_IOMMU with a type that nobody has',
    line: 'container.c:264',
    call: after(setContainer, (bench) => setIommu(bench, 99)),
    result: 'ENODEV',
  },
  { when: 'GROUP_GET_STATUS', line: 'group.c:361', call: ({ group }) => statusFlags(group), result: 1 },
  {
    when: 'GROUP_GET_STATUS in a container',
    line: 'group.c:361',
    call: after(setContainer, ({ group }) => statusFlags(group)),
    result: 3,
  },
  {
    when: 'GROUP_GET_STATUS with argsz 7',
    line: 'group.c:364',
    call: ({ group }) => call(group, Vfio.VFIO_GROUP_GET_STATUS, u32(7, 0)),
    result: 'EINVAL',
  },
  {
    when: 'GROUP_GET_STATUS: the argument cannot be read',
    line: 'group.c:361',
    call: ({ group, unmapped }) => call(group, Vfio.VFIO_GROUP_GET_STATUS, unmapped),
    result: 'EFAULT',
  },
  { when: 'SET_CONTAINER with fd -1', line: 'group.c:114', call: (bench) => setContainer(bench, -1), result: 'EBADF' },
  {
    when: 'SET_CONTAINER with a file that is no container',
    line: 'group.c:148',
    call: (bench) => setContainer(bench, bench.group.fd),
    result: 'EBADFD',
  },
  {
    when: 'SET_CONTAINER a second time',
    line: 'group.c:118',
    call: after(setContainer, setContainer),
    result: 'EINVAL',
  },
  {
    when: 'SET_CONTAINER: the argument cannot be read',
    line: 'group.c:109',
    call: ({ group, unmapped }) => call(group, Vfio.VFIO_GROUP_SET_CONTAINER, unmapped),
    result: 'EFAULT',
  },
  { when: 'GET_DEVICE_FD', line: 'group.c:340', call: after(...ready, deviceFd), result: 0 },
  {
    when: 'GET_DEVICE_FD before SET_CONTAINER',
    line: 'group.c:176',
    call: (bench) => deviceFd(bench),
    result: 'EINVAL',
  },
  {
    when: 'GET_DEVICE_FD before SET_IOMMU',
    line: 'group.c:176',
    call: after(setContainer, deviceFd),
    result: 'EINVAL',
  },
  {
    when: 'GET_DEVICE_FD with a name that no device has',
    line: 'group.c:340',
    call: after(...ready, (bench) => deviceFd(bench, 'nobody')),
    result: 'ENODEV',
  },
  {
    when: 'open a group that is open',
    line: 'group.c:468',
    call: (bench) => openAgain(bench),
    result: 'EBUSY',
  },
  {
    when: 'UNSET_CONTAINER',
    line: 'group.c:79',
    call: after(...ready, ({ group }) => call(group, Vfio.VFIO_GROUP_UNSET_CONTAINER)),
    result: 0,
  },
  {
    when: 'UNSET_CONTAINER of a group in none',
    line: 'group.c:81',
    call: ({ group }) => call(group, Vfio.VFIO_GROUP_UNSET_CONTAINER),
    result: 'EINVAL',
  },
  {
    when: 'UNSET_CONTAINER with a device open',
    line: 'group.c:86',
    call: after(...ready, deviceFd, ({ group }) => call(group, Vfio.VFIO_GROUP_UNSET_CONTAINER)),
    result: 'EBUSY',
  },
  {
    when: 'an unknown request on a container',
    line: 'vfio_iommu_type1.c:3008',
    call: after(...ready, ({ container }) => call(container, 0x3bff)),
    result: 'ENOTTY',
  },
  {
    when: 'an unknown request on a group',
    line: 'group.c:424',
    call: ({ group }) => call(group, 0x3bff),
    result: 'ENOTTY',
  },
  {
    when: 'the number of DIRTY_PAGES on a group',
    line: 'group.c:424',
    call: ({ group }) => dirtyPages(group, DirtyPages.START),
    result: 'ENOTTY',
  },
  {
    when: 'the number of DIRTY_PAGES on a device is DEVICE_FEATURE, which also refuses argsz 7',
    line: 'vfio_main.c:1219',
    call: after(...ready, (bench) => onDevice(bench, (fd) => dirtyPages(fd, DirtyPages.START, 7))),
    result: 'EINVAL',
  },
];

function statusFlags(group: Descriptor): number {
  const status = u32(8, 0);
  const result = call(group, Vfio.VFIO_GROUP_GET_STATUS, status);
  return result < 0 ? result : (status[4] as number);
}

function onDevice(bench: SetUpBench, then: (device: Descriptor) => number): number {
  const { port, group, name } = bench;
  const fd = bench.keep(call(group, Vfio.VFIO_GROUP_GET_DEVICE_FD, cString(name)));
  return then({ port, fd });
}

function openAgain({ port, groupNumber }: SetUpBench): number {
  try {
    return port.open(`/dev/vfio/${groupNumber}`);
  } catch (error) {
    const cause = error instanceof SyscallError ? error : (error as Error).cause;
    if (cause instanceof SyscallError) return -cause.errno;
    throw error;
  }
}
