import type { MachineName } from '../harness/machines.js';

/** A selftest of the kernel, the machine that it judges in, and our tests of the same subject. */
export interface Judge {
  /** The program, in tools/testing/selftests, as `BuiltSelftests.program` takes it. */
  readonly program: string;
  readonly args?: readonly string[];
  /** With `--short`: it is run once with each of these arguments instead, which leaves out what takes long. */
  readonly short?: readonly string[];
  /** Which of its tests are about what Godwit relies on. */
  readonly about: RegExp;
  /** In words, for the report. */
  readonly subject: string;
  /** Our compiled tests of the same subject. */
  readonly ours: readonly string[];
  /** Tests of it that cannot pass on this kernel, and why: they do not count. */
  readonly exempt?: { readonly tests: RegExp; readonly because: string };
}

/** The selftests of one boot of a machine. */
export interface Session {
  readonly name: string;
  readonly machine: MachineName;
  /** Memory of the machine, where the default is too little. */
  readonly memoryGiB?: number;
  /** Huge pages of 2 MiB to reserve. */
  readonly hugePages: number;
  readonly judges: readonly Judge[];
}

const LINUX = 'packages/linux/dist-test';

const USERFAULTFD: Judge = {
  program: 'mm/uffd-unit-tests',
  // All but its events, which take half an hour where the processor is emulated, and which Godwit does not use.
  short: ['register', 'zeropage', 'move', 'wp-fork', 'wp-unpopulated', 'minor', 'rwp', 'sigbus', 'poison'].map(
    (tests) => `-f ${tests}`,
  ),
  about: /wp|poison|zeropage|sigbus/,
  subject: 'userfaultfd: missing pages, write protection, poison',
  ours: [`${LINUX}/userfaultfd.test.js`, `${LINUX}/shared-userfaultfd.test.js`],
};

const PAGEMAP: Judge = {
  program: 'mm/pagemap_ioctl',
  about: /./,
  subject: 'PAGEMAP_SCAN with asynchronous write protection',
  ours: [`${LINUX}/pagemap-tracker.test.js`],
};

function dirtyLog(mode: string, ours: string): Judge {
  return {
    program: 'kvm/dirty_log_test',
    // The shortest run that it accepts: the processor is emulated, and KVM in it emulates another.
    args: ['-M', mode, '-i', '3'],
    about: /./,
    subject: `KVM: ${mode}`,
    ours: [`${LINUX}/${ours}`],
  };
}

export const SESSIONS: readonly Session[] = [
  {
    name: 'iommufd',
    machine: 'iommufd',
    hugePages: 64,
    judges: [
      {
        program: 'iommu/iommufd',
        about: /dirty/,
        subject: 'iommufd: dirty tracking',
        ours: ['test/dist/kernel/iommufd/iommufd.test.js'],
        exempt: {
          tests: /area_auto_iova|alloc_hwpt_nested|get_hw_info/,
          because: 'it asks for what kernels newer than 6.12 do',
        },
      },
    ],
  },
  { name: 'mm, stock', machine: 'stock', hugePages: 64, judges: [USERFAULTFD, PAGEMAP] },
  {
    name: 'mm, newest',
    machine: 'newest',
    hugePages: 64,
    judges: [USERFAULTFD, { ...PAGEMAP, ours: [...PAGEMAP.ours, 'test/dist/kernel/newest/access-tracker.test.js'] }],
  },
  {
    name: 'kvm',
    machine: 'stock',
    // The guest has a GiB, and writes all of it.
    memoryGiB: 3,
    hugePages: 0,
    judges: [
      dirtyLog('dirty-log', 'kvm-dirty-log.test.js'),
      dirtyLog('clear-log', 'kvm-dirty-log.test.js'),
      dirtyLog('dirty-ring', 'kvm-dirty-ring.test.js'),
    ],
  },
];
