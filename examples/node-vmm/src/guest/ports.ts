/** I/O ports between the test guest and the VMM, and the codes that cross them. Mirrors guest/constants.S. */

/** 16550 serial, 8 ports from here. The guest writes only the transmit register, one byte an exit, and polls nothing. */
export const PORT_SERIAL = 0x3f8;
/**
 * `in eax`: low 32 bits of a monotonic clock in microseconds, which goes on while the guest is paused or in flight
 * between hosts. The VMM keeps the high half of the same reading, for this vCPU, for PORT_CLOCK_HIGH. The guest takes
 * the reading as one 64-bit number and treats a step backwards as a defect.
 */
export const PORT_CLOCK_LOW = 0x500;
/** `in eax`: high 32 bits of this vCPU's last reading of PORT_CLOCK_LOW. Part of the vCPU's state when it is saved. */
export const PORT_CLOCK_HIGH = 0x504;
/** `out eax`: this vCPU sleeps for so many microseconds; it may be woken earlier, it looks at the clock again. */
export const PORT_PACER = 0x508;
/** `out eax`: defect kind in bits 0..7, vCPU in bits 8..15. The line on the console says the rest. */
export const PORT_DEFECT = 0x50c;
/**
 * `out eax`: guest-physical address of a line { u32 length; u8 text[length] }, ended by a newline. Used in place of the
 * serial port when the boot parameters ask for it (`console: 'line'`): a line is one exit and not ninety, which on a
 * KVM that emulates is a tenth of the guest's time. The text may be read until the exit has been completed.
 */
export const PORT_LINE = 0x510;

/** What the guest can notice. The number is what PORT_DEFECT carries and the control page records. */
export const DEFECT_CODES = {
  /** The page is zero though it was written before. */
  lost: 1,
  /** The page is a complete older generation. */
  stale: 2,
  /** Stamps or body of the page disagree, or a checksum is wrong. */
  torn: 3,
  /** The page is a complete page of another address. */
  misplaced: 4,
  /** Another vCPU wrote the page. */
  'foreign-writer': 5,
  /** The table of expected generations is older than the page, or does not add up to the writes done. */
  table: 6,
  /** A count of writes is not what it was: old vCPU state or an old control page. */
  progress: 7,
  /** A page that the VMM writes is older than one seen before, torn, or a message is missing. */
  mailbox: 8,
  /** The clock went backwards. */
  clock: 9,
  /** The page changed while the guest looked at it: somebody writes it who should not. */
  changed: 10,
  /** The boot parameters make no sense. */
  parameters: 11,
  /** Seen from outside only: the image's bytes are not what was loaded. */
  image: 12,
} as const;

export type DefectKind = keyof typeof DEFECT_CODES;

const KINDS = new Map<number, DefectKind>(
  (Object.keys(DEFECT_CODES) as DefectKind[]).map((kind) => [DEFECT_CODES[kind], kind]),
);

/** Decodes a value written to PORT_DEFECT; `kind` is undefined for a number that is none. */
export function decodeDefectPort(value: number): { kind: DefectKind | undefined; vcpu: number } {
  return { kind: KINDS.get(value & 0xff), vcpu: (value >>> 8) & 0xff };
}
