import { readdirSync } from 'node:fs';
import { hostSupport, Kvm, runVcpu } from '@godwit/linux';
import { expect } from '@jest/globals';
import { testWhen } from '../when-usable.js';
import { RealModeGuest } from './real-mode-guest.js';

const testKvm = testWhen(hostSupport().kvm);

/** out 0x80, al; jmp -4 */
const EXITS = [0xe6, 0x80, 0xeb, 0xfc];

testKvm('the counters of a vCPU are read by name while it can run, and closing them frees their descriptor', () => {
  const kvm = Kvm.open();
  const guest = new RealModeGuest(kvm, EXITS);
  const before = readdirSync('/proc/self/fd').length;
  const statistics = guest.vcpu.statistics();
  try {
    // Linux 5.14 and later.
    if (statistics === undefined) return;
    expect(statistics.names).toEqual(expect.arrayContaining(['exits', 'io_exits', 'pf_fixed']));
    // A histogram is no counter.
    expect(statistics.names.filter((name) => name.includes('hist'))).toEqual([]);
    const exits = statistics.read('exits') ?? Number.NaN;
    for (let i = 0; i < 10; i++) expect(runVcpu(guest.vcpu.fd)).toBe(0);
    expect(statistics.read('exits')).toBeGreaterThanOrEqual(exits + 10);
    expect(statistics.read('wishes')).toBeUndefined();
  } finally {
    statistics?.close();
    statistics?.close();
    expect(readdirSync('/proc/self/fd')).toHaveLength(before);
    guest.close();
    kvm.close();
  }
});
