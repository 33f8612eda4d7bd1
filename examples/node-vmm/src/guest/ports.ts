/** I/O ports between the test guest and the VMM, and the codes that are written to them. Mirrors guest/constants.S. */

/** 16550 serial, 8 ports from here. The guest writes only the transmit register, one byte an exit, and polls nothing. */
export const PORT_SERIAL = 0x3f8;
/**
 * `in eax`: low 32 bits of a monotonic clock in microseconds, which also counts while the guest is paused or moves between hosts. The
 * VMM keeps the high half of the same reading, for this vCPU, for PORT_CLOCK_HIGH. The guest uses the reading as one 64-bit number, and
 * a step backwards is a defect.
 */
export const PORT_CLOCK_LOW = 0x500;
/** `in eax`: high 32 bits of this vCPU's last reading of PORT_CLOCK_LOW. Part of the vCPU's state when it is saved. */
export const PORT_CLOCK_HIGH = 0x504;
/** `out eax`: this vCPU sleeps for this many microseconds. It may be woken earlier, and then reads the clock again. */
export const PORT_PACER = 0x508;
/** `out eax`: defect kind in bits 0..7, vCPU in bits 8..15. The line on the console has the details. */
export const PORT_DEFECT = 0x50c;
/**
 * `out eax`: guest-physical address of a line { u32 length; u8 text[length] }, which ends with a newline. Used instead of the serial
 * port when the boot parameters ask for it (`console: 'line'`): a line takes one exit instead of ninety, which on an emulating KVM are a
 * tenth of the guest's time. The text may be read until the exit was completed.
 */
export const PORT_LINE = 0x510;

/** The defects that the guest can find, with their numbers at PORT_DEFECT and in the control page. */
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
  /** A count of writes has changed: the vCPU state or the control page is stale. */
  progress: 7,
  /** A page that the VMM writes is older than one seen before, torn, or a message is missing. */
  mailbox: 8,
  /** The clock went backwards. */
  clock: 9,
  /** The page changed while the guest checked it: another writer writes it. */
  changed: 10,
  /** The boot parameters are invalid. */
  parameters: 11,
  /** Found only from outside: the image's bytes are not those that were loaded. */
  image: 12,
} as const;

export type DefectKind = keyof typeof DEFECT_CODES;

const KINDS = new Map<number, DefectKind>(
  (Object.keys(DEFECT_CODES) as DefectKind[]).map((kind) => [DEFECT_CODES[kind], kind]),
);

/** Decodes a value written to PORT_DEFECT; `kind` is undefined for an unknown number. */
export function decodeDefectPort(value: number): { kind: DefectKind | undefined; vcpu: number } {
  return { kind: KINDS.get(value & 0xff), vcpu: (value >>> 8) & 0xff };
}
