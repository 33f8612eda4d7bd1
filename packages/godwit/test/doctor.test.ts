import { existsSync } from 'node:fs';
import { describe, expect, jest, test } from '@jest/globals';
import { diagnosisOf, type FakeHost } from './fake-host.js';
import { godwit } from './godwit-command.js';

jest.setTimeout(60_000);

const no = (reason: string) => ({ usable: false, reason }) as const;

/** What each fault of a host stands in the way of, and a word of the remedy. */
const FAULTS: readonly (readonly [string, FakeHost, readonly string[], RegExp])[] = [
  ['an old Node', { node: '18.19.0' }, ['move', 'kvm', 'at-once', 'vfio', 'huge-pages'], /Node\.js 20/],
  [
    'another system',
    { platform: 'darwin', linux: { reason: 'this is darwin' } },
    ['move', 'kvm', 'at-once', 'vfio', 'huge-pages'],
    /64-bit Linux/,
  ],
  ['no /dev/kvm', { tried: { kvm: no('/dev/kvm does not exist') }, absent: ['/dev/kvm'] }, ['kvm'], /in the firmware/],
  [
    'no /dev/kvm in a virtual machine',
    { tried: { kvm: no('/dev/kvm does not exist') }, absent: ['/dev/kvm'], virtual: true },
    ['kvm'],
    /nested virtualization/,
  ],
  ['a forbidden /dev/kvm', { tried: { kvm: no('EACCES') }, forbidden: ['/dev/kvm'] }, ['kvm'], /group of \/dev\/kvm/],
  ['no userfaultfd', { tried: { userfaultfd: no('ENOSYS') } }, ['move', 'at-once'], /seccomp/],
  ['user faults only', { tried: { userfaultfdKernelFaults: no('user mode') } }, ['at-once'], /\/dev\/userfaultfd/],
  ['no poison', { tried: { userfaultfdFeatures: ['WP_ASYNC', 'MISSING_SHMEM'] } }, ['at-once'], /6\.6/],
  ['no PAGEMAP_SCAN', { tried: { pagemapScan: no('the kernel has none') } }, ['move'], /6\.7/],
  ['no WP_ASYNC', { tried: { asyncWriteProtect: no('the kernel has none') } }, ['move'], /6\.7/],
  [
    'no huge pages',
    { tried: { transparentHugePages: no('off'), anonymousHugePages: no('off') } },
    ['huge-pages'],
    /hugepage\/enabled/,
  ],
  ['no IOMMU', { empty: ['/sys/kernel/iommu_groups'] }, ['vfio'], /intel_iommu/],
  ['no VFIO', { absent: ['/dev/vfio/vfio', '/dev/iommu'] }, ['vfio'], /modprobe/],
  ['a forbidden VFIO', { forbidden: ['/dev/vfio/vfio'], absent: ['/dev/iommu'] }, ['vfio'], /udev/],
];

describe('what stands in the way', () => {
  test('of nothing, on a host that has all', () => {
    const { checks, purposes } = diagnosisOf({});
    expect(checks.filter(({ verdict }) => verdict !== 'ok')).toEqual([]);
    expect(Object.values(purposes).flat()).toEqual([]);
  });

  test.each(FAULTS)('%s', (_what, host, stopped, remedy) => {
    const { checks, purposes } = diagnosisOf(host);
    const stopping = Object.entries(purposes).filter(([, missing]) => missing.length > 0);
    expect(stopping.map(([purpose]) => purpose).sort()).toEqual([...stopped].sort());
    const missing = checks.filter(({ verdict }) => verdict === 'missing');
    expect(missing.some((check) => check.remedy !== undefined && remedy.test(check.remedy))).toBe(true);
    // Nothing is said to be missing without a word on what to do.
    for (const check of checks) if (check.verdict !== 'ok') expect(check.remedy).toBeDefined();
  });

  test.each([
    ['few files', { tried: { filesLimit: 256 } }, /ulimit -n/],
    ['little locked memory', { tried: { lockedLimit: 2 ** 23 } }, /RLIMIT_MEMLOCK/],
    ['no zstd', { node: '20.20.2' }, /without zstd/],
    ['few mappings', { files: { '/proc/sys/vm/max_map_count': '1000' } }, /max_map_count/],
    ['no real-time priority', { files: { '/proc/self/status': 'CapEff:\t000001ffff7fffff' } }, /LimitRTPRIO/],
    ['no word on the priority', { files: { '/proc/self/status': '', '/proc/self/limits': '' } }, /LimitRTPRIO/],
    ['no assigned device', { empty: ['/dev/vfio/devices', '/dev/vfio'] }, /none/],
    ['a dirty log of the old kind', { tried: { kvmManualDirtyLog: no('Linux 5.0 has') } }, /as a whole/],
  ] satisfies readonly (readonly [string, FakeHost, RegExp])[])('%s is only noted', (_what, host, note) => {
    const { checks, purposes } = diagnosisOf(host);
    expect(Object.values(purposes).flat()).toEqual([]);
    const notes = checks.filter(({ verdict }) => verdict === 'note');
    expect(notes.map(({ found, remedy }) => `${found} ${remedy}`).join('\n')).toMatch(note);
  });
});

test('a limit allows the real-time priority without the capability', () => {
  const files = {
    '/proc/self/status': 'CapEff:\t0000000000000000',
    '/proc/self/limits':
      'Max nice priority         0                    0\nMax realtime priority     1                    1',
  };
  const { checks } = diagnosisOf({ files });
  expect(checks.find(({ name }) => name === 'priority')?.verdict).toBe('ok');
});

describe('godwit doctor', () => {
  test('says what this host can do', async () => {
    const { status, stdout, stderr } = await godwit(['doctor', '--json']);
    expect(stderr).toBe('');
    const { healthy, need, checks, purposes } = JSON.parse(stdout);
    expect(status).toBe(healthy ? 0 : 1);
    expect(need).toEqual(['move', 'kvm']);
    expect(healthy).toBe(purposes.move.length === 0 && purposes.kvm.length === 0);
    expect(checks.map(({ name }: { name: string }) => name)).toEqual(
      expect.arrayContaining(['node', 'system', 'memory', 'kvm', 'userfaultfd', 'iommu', 'vfio', 'locked memory']),
    );
    if (!existsSync('/dev/kvm')) expect(purposes.kvm).toContain('kvm');
  });

  test('the status follows what is needed', async () => {
    const { stdout } = await godwit(['doctor', '--json']);
    const { purposes } = JSON.parse(stdout) as { purposes: Record<string, string[]> };
    for (const [purpose, missing] of Object.entries(purposes)) {
      const { status, stdout: text } = await godwit(['doctor', '--need', purpose]);
      expect(status).toBe(missing.length === 0 ? 0 : 1);
      expect(text).toMatch(new RegExp(`^${purpose} +needed .*: ${missing.length === 0 ? 'yes' : 'no: '}`, 'm'));
    }
  });

  test.each([
    [['doctor', '--ned', 'kvm'], 'godwit doctor has no option --ned; did you mean --need?'],
    [['doctor', '--need', 'kmv'], 'got "kmv"; did you mean kvm?'],
    [['doctor', 'kvm'], 'doctor has options only, got "kvm"'],
  ])('refuses %j', async (args, says) => {
    const { status, stdout, stderr } = await godwit(args);
    expect([status, stdout]).toEqual([2, '']);
    expect(stderr).toContain(says);
  });
});
