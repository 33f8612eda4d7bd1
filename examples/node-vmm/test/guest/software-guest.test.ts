import {
  type BootParams,
  checkMemory,
  controlAddress,
  type DEFECT_CODES,
  decodeDefectPort,
  decodeSoftwareGuestState,
  encodeSoftwareGuestState,
  HeartbeatMonitor,
  MAILBOX_ADDRESS,
  ownedPageAddress,
  PAGE_SIZE,
  type SoftwareGuestState,
} from '@godwit/example-node-vmm/guest';
import { describe, expect, test } from '@jest/globals';
import { SoftwareMachine, type SparseRam } from './software-machine.js';

const modes: [string, Partial<BootParams>][] = [
  ['sequential', {}],
  ['random', { order: 'random' }],
  ['whole pages', { wholePages: true }],
  ['eight vCPUs, random whole pages', { vcpus: 8, order: 'random', wholePages: true, ...eightTables() }],
];

function eightTables(): Pick<BootParams, 'tables'> {
  return { tables: Array.from({ length: 8 }, (_, vcpu) => 0x20_0000 + vcpu * PAGE_SIZE) };
}

function copyState(state: SoftwareGuestState | undefined): SoftwareGuestState {
  if (state === undefined) throw new Error('the guest has not run');
  return decodeSoftwareGuestState(encodeSoftwareGuestState(state));
}

function copyPages(from: SparseRam, to: SparseRam, address: number, pages = 1): void {
  to.view(address, pages * PAGE_SIZE).set(from.view(address, pages * PAGE_SIZE));
}

describe('software guest', () => {
  test.each(modes)('writes, checks and beats, and its memory is right from outside: %s', (_, change) => {
    const machine = new SoftwareMachine(change);
    const monitor = new HeartbeatMonitor();
    expect(machine.run(20).reason).toBe('requested');
    for (const line of machine.lines) if (line.type === 'heartbeat') expect(monitor.observe(line)).toBeUndefined();
    expect(monitor.last).toMatchObject({ count: 20 });
    expect(monitor.last?.mail).toBeGreaterThan(3);
    const report = checkMemory(machine.ram, machine.params, { mailboxMessage: machine.lastMessage });
    expect(report).toMatchObject({ defects: [], defectCount: 0, pages: 100, mailboxMessage: machine.lastMessage });
    const { vcpus } = report;
    expect(vcpus.every((vcpu) => vcpu.writes > vcpu.owned && vcpu.written > 0)).toBe(true);
  });

  test('continues in a copy of its memory, from its encoded state, without a defect', () => {
    const machine = new SoftwareMachine({ order: 'random' });
    machine.run(5);
    machine.ram = machine.ram.clone();
    machine.state = copyState(machine.state);
    machine.clock += 150_000;
    expect(machine.run(5).reason).toBe('requested');
    const beats = machine.lines.filter((line) => line.type === 'heartbeat');
    expect(beats.map((beat) => beat.count)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    // The guest has measured its own downtime as a stall.
    expect(beats[5]?.stall).toBeGreaterThanOrEqual(150_000);
    expect(checkMemory(machine.ram, machine.params).defects).toEqual([]);
  });

  test('keeps to its rate', () => {
    const machine = new SoftwareMachine({ pagesPerSecond: 1000 });
    machine.run(50);
    const [first, last] = [machine.lines[1], machine.lines.at(-1)];
    if (first?.type !== 'heartbeat' || last?.type !== 'heartbeat') throw new Error('no heartbeats');
    const rate = ((last.writes - first.writes) * 1e6) / (last.clock - first.clock) / machine.params.vcpus;
    expect(rate).toBeGreaterThan(900);
    expect(rate).toBeLessThan(1100);
  });

  test('only prints heartbeats with an empty working set', () => {
    const machine = new SoftwareMachine({ ranges: [] });
    expect(machine.run(3).reason).toBe('requested');
    expect(machine.lines.at(-1)).toMatchObject({ type: 'heartbeat', count: 3, writes: 0 });
  });

  test('state of another version, or cut short, is refused', () => {
    const machine = new SoftwareMachine();
    machine.run(1);
    const bytes = encodeSoftwareGuestState(copyState(machine.state));
    expect(() => decodeSoftwareGuestState(bytes.subarray(0, bytes.length - 1))).toThrow(RangeError);
    bytes[4] = 2;
    expect(() => decodeSoftwareGuestState(bytes)).toThrow(/version 2/);
  });
});

describe('what the software guest notices', () => {
  /** Runs, keeps a copy of memory and state, runs on, lets `spoil` do damage, and runs again. */
  function after(
    spoil: (machine: SoftwareMachine, old: SparseRam, oldState: SoftwareGuestState) => void,
    change: Partial<BootParams> = {},
  ): SoftwareMachine {
    const machine = new SoftwareMachine(change);
    machine.run(4);
    const old = machine.ram.clone();
    const oldState = copyState(machine.state);
    machine.run(4);
    spoil(machine, old, oldState);
    expect(machine.run(100).reason).toBe('defect');
    return machine;
  }

  const victim = (machine: SoftwareMachine, index = 10): number => ownedPageAddress(machine.params, 1, index);

  const damages: [keyof typeof DEFECT_CODES, string, Parameters<typeof after>[0], Partial<BootParams>?][] = [
    ['lost', 'a zeroed page', (machine) => machine.ram.view(victim(machine), PAGE_SIZE).fill(0)],
    ['stale', 'an older copy of a page', (machine, old) => copyPages(old, machine.ram, victim(machine))],
    [
      'torn',
      'an older second half',
      (machine, old) => {
        machine.ram.view(victim(machine) + 2048, 2048).set(old.view(victim(machine) + 2048, 2048));
      },
    ],
    [
      'torn',
      'one byte between the stamps',
      (machine) => machine.ram.view(victim(machine) + 2000, 1).fill(99),
      { wholePages: true },
    ],
    [
      'misplaced',
      'two pages in each other’s place',
      (machine) => {
        const [a, b] = [victim(machine), victim(machine, 11)];
        const first = machine.ram.view(a, PAGE_SIZE).slice();
        machine.ram.view(a, PAGE_SIZE).set(machine.ram.view(b, PAGE_SIZE));
        machine.ram.view(b, PAGE_SIZE).set(first);
      },
    ],
    ['table', 'an older table page', (machine, old) => copyPages(old, machine.ram, machine.params.tables[1] ?? 0)],
    [
      'table',
      'an older table page together with all of its data pages',
      (machine, old) => {
        copyPages(old, machine.ram, machine.params.tables[1] ?? 0);
        for (let index = 0; index < 50; index++) copyPages(old, machine.ram, victim(machine, index));
      },
    ],
    ['progress', 'an older control page', (machine, old) => copyPages(old, machine.ram, controlAddress(1))],
    [
      'progress',
      'an older vCPU state',
      (machine, _, oldState) => {
        machine.state = oldState;
      },
    ],
    [
      'progress',
      'a whole older vCPU: state, control page, table and data',
      (machine, old, oldState) => {
        copyPages(old, machine.ram, controlAddress(1));
        copyPages(old, machine.ram, machine.params.tables[1] ?? 0);
        for (let index = 0; index < 50; index++) copyPages(old, machine.ram, victim(machine, index));
        Object.assign(machine.state?.vcpus[1] ?? {}, oldState.vcpus[1]);
        // The guest is as slow as under a KVM that emulates instructions, so that it does not catch up before vCPU 0 reads the counts.
        machine.clock += 20_000;
      },
    ],
    ['mailbox', 'an older mailbox', (machine, old) => copyPages(old, machine.ram, MAILBOX_ADDRESS, 4)],
    [
      'mailbox',
      'a message that never arrived',
      (machine) => {
        machine.lastMessage++;
      },
    ],
    [
      'clock',
      'a clock that went backwards',
      (machine) => {
        machine.clock -= 50_000;
      },
    ],
  ];
  // One argument a test: Jest takes a further one of the function for its `done`.
  test.each(damages.map(([kind, what, spoil, change]) => ({ kind, what, spoil, change })))('$kind: $what', (damage) => {
    const { kind, spoil, change } = damage;
    const machine = after(spoil, change);
    expect(machine.lines.at(-1)).toMatchObject({ type: 'defect', kind });
    expect(decodeDefectPort(machine.defectCode ?? 0).kind).toBe(kind);
    // The guest does not run again, and the checker reports the defect that the guest has found.
    const count = machine.lines.length;
    expect(machine.run(1).reason).toBe('defect');
    expect(machine.lines).toHaveLength(count);
    const noticed = checkMemory(machine.ram, machine.params).defects.filter((defect) => defect.noticedBy === 'guest');
    expect(noticed).toMatchObject([{ kind }]);
  });
});
