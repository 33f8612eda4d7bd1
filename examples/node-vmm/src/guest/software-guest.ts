/**
 * The test guest's workload as a JavaScript function, for machines without /dev/kvm: same memory layout, same stamps,
 * tables, checks and console lines as guest/*.S. One thread runs all vCPUs in turn.
 *
 * `SoftwareGuestState` holds what a vCPU of the assembly guest has in registers; everything else is in guest memory. The guest compares the
 * two: if a migration brings an old page or an old state, they disagree. `runSoftwareGuest` returns when a pause is requested. Called again
 * with the state, it continues, also in another process, after `encodeSoftwareGuestState` and `decodeSoftwareGuestState`.
 */
import type { BootParams } from './boot-params.js';
import { type GuestRam, readU64, WordRange, writeU64 } from './guest-ram.js';
import { CONTROL, controlAddress, MAILBOX_ADDRESS, PAGE_SIZE, SHARED_ADDRESS, SHARED_STOP_OFFSET } from './layout.js';
import { mailboxWords, readMailbox } from './mailbox.js';
import { diagnosePage, isPageRight, type PageFault, type PageIdentity, writePage } from './page-stamp.js';
import { cellsText, FIRST_CELLS, nextCells } from './picture.js';
import { DEFECT_CODES } from './ports.js';
import { initialSoftwareGuestState, type SoftwareGuestState, type SoftwareVcpuState } from './software-guest-state.js';
import { generationTableBytes, ownedPageAddress, ownedPages } from './working-set.js';

// Looked up once: these are on the path of every page.
const { floor, imul } = Math;

/** Index in the control array: 0 = run; anything else = return soon. Store, then Atomics.notify, to end a sleep. */
export const SOFTWARE_GUEST_REQUEST = 0;

export interface SoftwareGuestHooks {
  /** A console line, with its newline. */
  print(line: string): void;
  /** The guest's clock: microseconds, monotonic, also across migrations. */
  now(): number;
  /** Sleeps for at most this many microseconds; may return early. Default: Atomics.wait on the request. */
  sleep?(microseconds: number): void;
  /** Called when the guest has found a defect, with a value as for PORT_DEFECT, after its line was printed. */
  defect?(code: number): void;
}

export interface SoftwareGuestExit {
  /** 'requested': a pause or stop was requested; 'defect': the guest has found a defect and never runs again. */
  readonly reason: 'requested' | 'defect';
  readonly state: SoftwareGuestState;
}

/** Pages between two checks of the request: well under a millisecond even in whole-page mode. */
const PAGES_PER_TURN = 32;
const LONGEST_SLEEP = 2000;
const CATCH_UP_LIMIT = 50_000;
const MAILBOX_PATIENCE = 256;

interface Vcpu {
  readonly number: number;
  readonly owned: number;
  readonly table: number;
  readonly generations: WordRange;
  readonly control: Uint32Array;
  readonly identity: PageIdentity;
  readonly registers: SoftwareVcpuState;
}

interface Machine {
  readonly params: BootParams;
  readonly hooks: SoftwareGuestHooks;
  readonly vcpus: readonly Vcpu[];
  readonly memory: readonly WordRange[];
  readonly shared: Uint32Array;
  readonly mailbox: Uint32Array;
}

interface Defect extends PageFault {
  readonly guestPhysicalAddress: number;
}

/**
 * Runs the guest until `control[SOFTWARE_GUEST_REQUEST]` is not 0 or a defect is found.
 * @param control over a SharedArrayBuffer, so that another thread can set the request
 * @param state of an earlier call; undefined at the first start, in zeroed memory
 */
export function runSoftwareGuest(
  ram: GuestRam,
  params: BootParams,
  control: Int32Array,
  hooks: SoftwareGuestHooks,
  state: SoftwareGuestState = initialSoftwareGuestState(params.vcpus),
): SoftwareGuestExit {
  const machine = assembleMachine(ram, params, hooks, state);
  const boot = machine.vcpus[0];
  if (boot !== undefined && !state.started) start(machine, boot);
  state.started = true;
  if (machine.shared[SHARED_STOP_OFFSET / 4] !== 0) return { reason: 'defect', state };
  while (Atomics.load(control, SOFTWARE_GUEST_REQUEST) === 0) {
    let nextDue = Number.POSITIVE_INFINITY;
    for (const vcpu of machine.vcpus) {
      const turn = takeTurn(machine, vcpu);
      if (typeof turn !== 'number') {
        reportDefect(machine, vcpu, turn);
        return { reason: 'defect', state };
      }
      nextDue = Math.min(nextDue, turn);
    }
    if (nextDue > 0) {
      if (hooks.sleep !== undefined) hooks.sleep(nextDue);
      else Atomics.wait(control, SOFTWARE_GUEST_REQUEST, 0, nextDue / 1000);
    }
  }
  return { reason: 'requested', state };
}

function assembleMachine(
  ram: GuestRam,
  params: BootParams,
  hooks: SoftwareGuestHooks,
  state: SoftwareGuestState,
): Machine {
  if (state.vcpus.length !== params.vcpus) {
    throw new RangeError(`state of ${state.vcpus.length} vCPUs for a guest of ${params.vcpus}`);
  }
  const page = (address: number): Uint32Array => new WordRange(ram, address, PAGE_SIZE).windowOf(address);
  return {
    params,
    hooks,
    shared: page(SHARED_ADDRESS),
    mailbox: mailboxWords(ram),
    memory: params.ranges.map((range) => new WordRange(ram, range.guestPhysicalAddress, range.pages * PAGE_SIZE)),
    vcpus: state.vcpus.map((registers, number) => {
      const owned = ownedPages(params, number);
      const table = params.tables[number] ?? 0;
      return {
        number,
        owned,
        table,
        generations: new WordRange(ram, table, generationTableBytes(owned)),
        control: page(controlAddress(number)),
        identity: { page: 0, generation: 0, writer: number },
        registers,
      };
    }),
  };
}

function start(machine: Machine, boot: Vcpu): void {
  const now = machine.hooks.now();
  for (const vcpu of machine.vcpus) {
    writeU64(vcpu.control, CONTROL.OWNED, vcpu.owned);
    writeU64(vcpu.control, CONTROL.CLOCK, now);
    writeU64(vcpu.control, CONTROL.DEADLINE, now);
    vcpu.control[CONTROL.RNG / 4] = machine.params.seed + Math.imul(vcpu.number, 0x9e3779b1);
  }
  writeU64(boot.control, CONTROL.CELLS, Number(FIRST_CELLS));
  writeU64(boot.control, CONTROL.HEARTBEAT_LAST, now);
  writeU64(boot.control, CONTROL.HEARTBEAT_NEXT, now + machine.params.heartbeatMicroseconds);
  machine.hooks.print(`[guest] started vcpus=${machine.params.vcpus} owned=${boot.owned}\n`);
}

/** Runs a turn of a vCPU. Returns the microseconds until its next work, or the defect that it has found. */
function takeTurn(machine: Machine, vcpu: Vcpu): number | Defect {
  const { control, registers } = vcpu;
  if (readU64(control, CONTROL.WRITES) !== registers.writes) {
    const found = readU64(control, CONTROL.WRITES);
    const guestPhysicalAddress = controlAddress(vcpu.number);
    return { kind: 'progress', guestPhysicalAddress, offset: CONTROL.WRITES, expected: registers.writes, found };
  }
  const now = machine.hooks.now();
  const clockDefect = noteClock(vcpu, now);
  if (clockDefect !== undefined) return clockDefect;
  let untilHeartbeat = LONGEST_SLEEP;
  if (vcpu.number === 0) {
    if (now >= readU64(control, CONTROL.HEARTBEAT_NEXT)) {
      const defect = heartbeat(machine, vcpu, now);
      if (defect !== undefined) return defect;
    }
    untilHeartbeat = Math.min(LONGEST_SLEEP, Math.max(1, readU64(control, CONTROL.HEARTBEAT_NEXT) - now));
  }
  if (vcpu.owned === 0) return untilHeartbeat;

  const rate = machine.params.pagesPerSecond;
  let pages = PAGES_PER_TURN;
  if (rate > 0) {
    const deadline = readU64(control, CONTROL.DEADLINE);
    if (now < deadline) return Math.min(deadline - now, untilHeartbeat);
    pages = Math.min(pages, Math.floor(rate / 512) + 1);
    const pay = pages * 1_000_000 + readU64(control, CONTROL.CARRY);
    writeU64(control, CONTROL.CARRY, pay % rate);
    // After a long pause, or when the rate cannot be reached, the writes that were missed are left out.
    const from = now >= deadline + CATCH_UP_LIMIT ? now : deadline;
    writeU64(control, CONTROL.DEADLINE, from + Math.floor(pay / rate));
  }
  for (let page = 0; page < pages; page++) {
    const defect = visitPage(machine, vcpu);
    if (defect !== undefined) return defect;
  }
  return 0;
}

/** One visit, in the order of guest/page-loop.S: audit step, check, write, choose the next page. */
function visitPage(machine: Machine, vcpu: Vcpu): Defect | undefined {
  const { control, generations, identity, registers, table } = vcpu;
  registers.auditSum += generations.get(table + registers.auditCursor * 4);
  registers.auditCursor++;

  const address = ownedPageAddress(machine.params, vcpu.number, registers.index);
  const memory = machine.memory[rangeOf(machine.params, address)];
  if (memory === undefined) throw new RangeError(`no range holds 0x${address.toString(16)}`);
  const words = memory.windowOf(address);
  const at = memory.wordOf(address);
  identity.page = address / PAGE_SIZE;
  identity.generation = generations.get(table + registers.index * 4);
  if (!isPageRight(words, at, identity, machine.params.wholePages)) {
    const fault = diagnosePage(words, at, identity, machine.params.wholePages);
    const changed: PageFault = { kind: 'changed', offset: 0, expected: identity.generation, found: words[at] ?? 0 };
    return { ...(fault ?? changed), guestPhysicalAddress: address };
  }

  writeU64(control, CONTROL.IN_FLIGHT, address);
  identity.generation++;
  writePage(words, at, identity, machine.params.wholePages);
  generations.set(table + registers.index * 4, identity.generation);
  writeU64(control, CONTROL.WRITES, readU64(control, CONTROL.WRITES) + 1);
  registers.writes++;
  if (registers.index < registers.auditCursor) registers.auditSum++;
  if (registers.auditCursor >= vcpu.owned) {
    const { auditSum: found, writes: expected } = registers;
    if (found !== expected) return { kind: 'table', guestPhysicalAddress: table, offset: 0, expected, found };
    registers.auditSum = 0;
    registers.auditCursor = 0;
  }

  if (machine.params.order === 'random') {
    const random = (imul(control[CONTROL.RNG / 4] ?? 0, 1664525) + 1013904223) >>> 0;
    control[CONTROL.RNG / 4] = random;
    registers.index = floor((random / 0x1_0000_0000) * vcpu.owned);
  } else {
    registers.index = (registers.index + 1) % vcpu.owned;
  }
  return undefined;
}

function rangeOf(params: BootParams, address: number): number {
  for (let index = 0; index < params.ranges.length; index++) {
    const range = params.ranges[index];
    if (range === undefined) break;
    if (address >= range.guestPhysicalAddress && address < range.guestPhysicalAddress + range.pages * PAGE_SIZE) {
      return index;
    }
  }
  return -1;
}

function noteClock(vcpu: Vcpu, now: number): Defect | undefined {
  const last = readU64(vcpu.control, CONTROL.CLOCK);
  if (now < last) {
    const guestPhysicalAddress = controlAddress(vcpu.number);
    return { kind: 'clock', guestPhysicalAddress, offset: CONTROL.CLOCK, expected: last, found: now };
  }
  const step = now - last;
  if (step > readU64(vcpu.control, CONTROL.STALL)) writeU64(vcpu.control, CONTROL.STALL, step);
  if (step > readU64(vcpu.control, CONTROL.STALL_EVER)) writeU64(vcpu.control, CONTROL.STALL_EVER, step);
  writeU64(vcpu.control, CONTROL.CLOCK, now);
  return undefined;
}

function heartbeat(machine: Machine, boot: Vcpu, now: number): Defect | undefined {
  const { control } = boot;
  let writes = 0;
  for (const vcpu of machine.vcpus) {
    const found = readU64(vcpu.control, CONTROL.WRITES);
    const seen = CONTROL.SEEN + vcpu.number * 8;
    const expected = readU64(control, seen);
    const guestPhysicalAddress = controlAddress(vcpu.number);
    if (found < expected) return { kind: 'progress', guestPhysicalAddress, offset: CONTROL.WRITES, expected, found };
    writeU64(control, seen, found);
    writes += found;
  }
  const mailboxDefect = lookIntoMailbox(machine, boot);
  if (mailboxDefect !== undefined) return mailboxDefect;

  const count = readU64(control, CONTROL.HEARTBEATS) + 1;
  writeU64(control, CONTROL.HEARTBEATS, count);
  const gap = now - readU64(control, CONTROL.HEARTBEAT_LAST);
  const stall = readU64(control, CONTROL.STALL);
  const mail = readU64(control, CONTROL.MAIL_SEEN);
  const cells = nextRow(control);
  const period = machine.params.heartbeatMicroseconds;
  const due = readU64(control, CONTROL.HEARTBEAT_NEXT) + period;
  writeU64(control, CONTROL.STALL, 0);
  writeU64(control, CONTROL.HEARTBEAT_LAST, now);
  writeU64(control, CONTROL.HEARTBEAT_NEXT, due > now ? due : now + period);
  machine.hooks.print(
    `[guest] heartbeat ${String(count).padStart(6, '0')} clock=${now}us gap=${gap}us stall=${stall}us writes=${writes} mail=${mail} |${cellsText(cells)}|\n`,
  );
  return undefined;
}

/** Computes the next row of the picture in the control page, as the guest on KVM does. */
function nextRow(control: Uint32Array): bigint {
  const at = CONTROL.CELLS / 4;
  const cells = nextCells((BigInt(control[at + 1] ?? 0) << 32n) | BigInt(control[at] ?? 0));
  control[at] = Number(cells & 0xffff_ffffn);
  control[at + 1] = Number(cells >> 32n);
  return cells;
}

function lookIntoMailbox(machine: Machine, boot: Vcpu): Defect | undefined {
  const mail = readMailbox(machine.mailbox);
  const { control } = boot;
  if (mail === 'busy') {
    const busy = readU64(control, CONTROL.MAIL_BUSY) + 1;
    writeU64(control, CONTROL.MAIL_BUSY, busy);
    if (busy < MAILBOX_PATIENCE) return undefined;
    return { kind: 'mailbox', guestPhysicalAddress: MAILBOX_ADDRESS, offset: 16, expected: 0, found: busy };
  }
  if ('kind' in mail) return mail;
  const seen = readU64(control, CONTROL.MAIL_SEEN);
  if (mail.newest < seen) {
    return { kind: 'mailbox', guestPhysicalAddress: MAILBOX_ADDRESS, offset: 0, expected: seen, found: mail.newest };
  }
  writeU64(control, CONTROL.MAIL_SEEN, mail.newest);
  writeU64(control, CONTROL.MAIL_BUSY, 0);
  return undefined;
}

function reportDefect(machine: Machine, vcpu: Vcpu, defect: Defect): void {
  const { kind, guestPhysicalAddress, offset, expected, found } = defect;
  const code = DEFECT_CODES[kind];
  for (const [index, value] of [code, guestPhysicalAddress, offset, expected, found].entries()) {
    writeU64(vcpu.control, CONTROL.DEFECT + index * 8, value);
  }
  machine.shared[SHARED_STOP_OFFSET / 4] = 1;
  const hex = (value: number): string => `0x${value.toString(16).padStart(16, '0')}`;
  machine.hooks.print(
    `[guest] defect kind=${kind} vcpu=${vcpu.number} gpa=${hex(guestPhysicalAddress)} offset=${hex(offset)} ` +
      `expected=${hex(expected)} found=${hex(found)}\n`,
  );
  machine.hooks.defect?.(code | (vcpu.number << 8));
}
