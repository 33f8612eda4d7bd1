/**
 * Checks the memory of a *paused* test guest from outside: every owned page against its stamps and the table of expected generations,
 * every table against the count of writes, the mailbox, the image, and the defects that the guest itself has found.
 *
 * A pause can come at any instruction of the guest, also while a vCPU writes a page. IN_FLIGHT, in the vCPU's control page, is the address
 * of the page that the vCPU is writing or has written last. Only the page at IN_FLIGHT may be written in part: its first quadwords are then
 * of the next generation, and the others of the generation in the table. A vCPU stores in this order: IN_FLIGHT, the page in ascending
 * order, the table's entry, WRITES.
 */
import type { BootParams } from './boot-params.js';
import { type GuestRam, readU64, WordRange } from './guest-ram.js';
import { CONTROL, controlAddress, IMAGE_ADDRESS, MAILBOX_ADDRESS, PAGE_SIZE } from './layout.js';
import { mailboxWords, readMailbox } from './mailbox.js';
import { diagnosePage, isPageMidWrite, type PageFault, type PageIdentity } from './page-stamp.js';
import { DEFECT_CODES, type DefectKind, decodeDefectPort } from './ports.js';
import { generationTableBytes, ownedPages } from './working-set.js';

export interface MemoryDefect {
  readonly kind: DefectKind;
  /** Address of the page. */
  readonly guestPhysicalAddress: number;
  /** Byte offset in the page. */
  readonly offset: number;
  /** The expected u32 field, or a count. */
  readonly expected: number;
  readonly found: number;
  /** Owner of the page or table; undefined for mailbox and image. */
  readonly vcpu?: number;
  /** Whether this checker has found the defect, or the guest itself before it was paused. */
  readonly noticedBy: 'checker' | 'guest';
}

export interface VcpuTotals {
  readonly owned: number;
  /** Owned pages written at least once. */
  readonly written: number;
  /** Page writes. */
  readonly writes: number;
  /** Address of the page that was being written when the guest was paused. */
  readonly midWrite?: number;
}

export interface MemoryReport {
  /** At most `limit` of them; `defectCount` counts all. */
  readonly defects: readonly MemoryDefect[];
  readonly defectCount: number;
  readonly vcpus: readonly VcpuTotals[];
  /** Pages checked. */
  readonly pages: number;
  /** Newest message in the mailbox. */
  readonly mailboxMessage: number;
}

export interface CheckMemoryOptions {
  /** Number of the last message that the VMM has posted, to find that the newest one is lost. */
  readonly mailboxMessage?: number;
  /** The image as loaded, to find that it has changed; omit it for the software guest. */
  readonly image?: Uint8Array;
  /** Most defects to list; default 10. */
  readonly limit?: number;
}

/** Checks the memory of a paused guest, in about a microsecond a page in stamp mode. Writes nothing. */
export function checkMemory(ram: GuestRam, params: BootParams, options: CheckMemoryOptions = {}): MemoryReport {
  const limit = options.limit ?? 10;
  const defects: MemoryDefect[] = [];
  let defectCount = 0;
  const report = (defect: MemoryDefect): void => {
    if (defectCount++ < limit) defects.push(defect);
  };

  const vcpus = Array.from({ length: params.vcpus }, (_, vcpu) => {
    const owned = ownedPages(params, vcpu);
    const table = params.tables[vcpu] ?? 0;
    const control = new WordRange(ram, controlAddress(vcpu), PAGE_SIZE).windowOf(controlAddress(vcpu));
    return {
      owned,
      table,
      control,
      generations: new WordRange(ram, table, generationTableBytes(owned)),
      inFlight: readU64(control, CONTROL.IN_FLIGHT),
      writes: readU64(control, CONTROL.WRITES),
      sum: 0,
      written: 0,
      midWrite: undefined as number | undefined,
    };
  });
  for (const [vcpu, { control }] of vcpus.entries()) reportGuestDefect(control, vcpu, report);

  // Page i of the working set belongs to vCPU i mod vcpus.
  let pages = 0;
  const identity: PageIdentity = { page: 0, generation: 0, writer: 0 };
  for (const range of params.ranges) {
    const memory = new WordRange(ram, range.guestPhysicalAddress, range.pages * PAGE_SIZE);
    for (let page = 0; page < range.pages; page++, pages++) {
      const vcpu = pages % params.vcpus;
      const owner = vcpus[vcpu];
      if (owner === undefined) throw new RangeError(`no vCPU ${vcpu}`);
      const address = range.guestPhysicalAddress + page * PAGE_SIZE;
      identity.page = address / PAGE_SIZE;
      identity.writer = vcpu;
      identity.generation = owner.generations.get(owner.table + Math.floor(pages / params.vcpus) * 4);
      owner.sum += identity.generation;
      if (identity.generation > 0) owner.written++;
      const words = memory.windowOf(address);
      const at = memory.wordOf(address);
      const fault = diagnosePage(words, at, identity, params.wholePages);
      if (fault === undefined) continue;
      if (owner.inFlight === address && isPageMidWrite(words, at, identity, params.wholePages)) {
        owner.midWrite = address;
        continue;
      }
      report({ ...fault, guestPhysicalAddress: address, vcpu, noticedBy: 'checker' });
    }
  }

  for (const [vcpu, owner] of vcpus.entries()) {
    // A vCPU stores the table's entry before WRITES, so that the sum of the table may be one more than WRITES.
    const ahead = owner.sum - owner.writes;
    if (ahead === 0 || (ahead === 1 && owner.midWrite === undefined)) continue;
    const fault: PageFault = { kind: 'table', offset: 0, expected: owner.writes, found: owner.sum };
    report({ ...fault, guestPhysicalAddress: owner.table, vcpu, noticedBy: 'checker' });
  }

  const mailboxMessage = checkMailbox(ram, options.mailboxMessage, report);
  if (options.image !== undefined) checkImage(ram, options.image, report);
  return {
    defects,
    defectCount,
    pages,
    mailboxMessage,
    vcpus: vcpus.map(({ owned, written, writes, midWrite }) => ({
      owned,
      written,
      writes,
      ...(midWrite === undefined ? {} : { midWrite }),
    })),
  };
}

function reportGuestDefect(control: Uint32Array, vcpu: number, report: (defect: MemoryDefect) => void): void {
  const field = (index: number): number => readU64(control, CONTROL.DEFECT + index * 8);
  const { kind } = decodeDefectPort(field(0));
  if (kind === undefined) return;
  const [guestPhysicalAddress, offset, expected, found] = [field(1), field(2), field(3), field(4)];
  report({ kind, guestPhysicalAddress, offset, expected, found, vcpu, noticedBy: 'guest' });
}

function checkMailbox(ram: GuestRam, posted: number | undefined, report: (defect: MemoryDefect) => void): number {
  const state = readMailbox(mailboxWords(ram));
  const fault = { kind: 'mailbox', guestPhysicalAddress: MAILBOX_ADDRESS, noticedBy: 'checker' } as const;
  if (state === 'busy') {
    // The mailbox device stops before a pause has resolved, so that no message can be half written now.
    report({ ...fault, offset: 16, expected: 0, found: 1 });
    return 0;
  }
  if ('kind' in state) {
    report({ ...state, noticedBy: 'checker' });
    return 0;
  }
  if (posted !== undefined && state.newest !== posted) {
    report({ ...fault, offset: 0, expected: posted, found: state.newest });
  }
  return state.newest;
}

function checkImage(ram: GuestRam, image: Uint8Array, report: (defect: MemoryDefect) => void): void {
  const loaded = ram.view(IMAGE_ADDRESS, image.byteLength);
  const offset = image.findIndex((byte, index) => byte !== loaded[index]);
  if (offset < 0) return;
  const [expected, found] = [image[offset] ?? 0, loaded[offset] ?? 0];
  report({ kind: 'image', guestPhysicalAddress: IMAGE_ADDRESS, offset, expected, found, noticedBy: 'checker' });
}

/** The defect as one line of text. */
export function describeDefect(defect: MemoryDefect): string {
  const hex = (value: number): string => `0x${value.toString(16)}`;
  const owner = defect.vcpu === undefined ? '' : ` of vCPU ${defect.vcpu}`;
  return (
    `${defect.kind} (${DEFECT_CODES[defect.kind]}): page ${hex(defect.guestPhysicalAddress)}${owner}, offset ` +
    `${hex(defect.offset)}: expected ${hex(defect.expected)}, found ${hex(defect.found)} (noticed by the ${defect.noticedBy})`
  );
}
