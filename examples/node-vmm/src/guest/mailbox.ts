/**
 * Pages that the VMM writes while the guest runs, like a device with DMA: KVM's dirty log does not see these writes.
 *
 * Message n = 1, 2, 3, ... is written to page n mod 4 of four, stamped with generation n and HOST_WRITER. The pages always have the
 * newest message and the three before it, so that a lost write is found once the next message was written. A sequence lock after each
 * page's first stamp (2n; odd while the page is being written) distinguishes a concurrent write from a defect.
 */
import type { GuestRam } from './guest-ram.js';
import { MAILBOX_ADDRESS, MAILBOX_PAGES, PAGE_SIZE } from './layout.js';
import { diagnosePage, HOST_WRITER, type PageFault, writePage } from './page-stamp.js';

const LOCK_WORD = 4;
const PAGE_WORDS = PAGE_SIZE / 4;

/** The VMM's side of the mailbox. Its only state is the number of the last message, which must be migrated. */
export class MailboxWriter {
  readonly #words: Uint32Array;
  #message: number;

  constructor(ram: GuestRam, lastMessage = 0) {
    this.#words = mailboxWords(ram);
    this.#message = lastMessage;
  }

  get lastMessage(): number {
    return this.#message;
  }

  /** Writes the next message; returns the guest-physical address of its page, which is dirty now. */
  post(): number {
    const message = ++this.#message;
    const index = message % MAILBOX_PAGES;
    const at = index * PAGE_WORDS;
    // With Atomics, both sides see these stores in this order.
    Atomics.store(this.#words, at + LOCK_WORD, 2 * message - 1);
    const page = MAILBOX_ADDRESS / PAGE_SIZE + index;
    writePage(this.#words, at, { page, generation: message, writer: HOST_WRITER }, false);
    Atomics.store(this.#words, at + LOCK_WORD, 2 * message);
    return MAILBOX_ADDRESS + index * PAGE_SIZE;
  }
}

export interface MailboxFault extends PageFault {
  readonly guestPhysicalAddress: number;
}

/** Reads the mailbox, for the guest and the checker: 'busy' when it was being written. */
export function readMailbox(words: Uint32Array): 'busy' | { readonly newest: number } | MailboxFault {
  const before = sumOfLocks(words);
  if (before < 0) return 'busy';
  let newest = 0;
  for (let index = 0; index < MAILBOX_PAGES; index++) {
    newest = Math.max(newest, Atomics.load(words, index * PAGE_WORDS + LOCK_WORD) / 2);
  }
  let fault: MailboxFault | undefined;
  for (let index = 0; index < MAILBOX_PAGES && fault === undefined; index++) {
    const behind = (((newest - index) % MAILBOX_PAGES) + MAILBOX_PAGES) % MAILBOX_PAGES;
    const page = MAILBOX_ADDRESS / PAGE_SIZE + index;
    const identity = { page, generation: Math.max(0, newest - behind), writer: HOST_WRITER };
    const found = diagnosePage(words, index * PAGE_WORDS, identity, false);
    if (found !== undefined) fault = { ...found, kind: 'mailbox', guestPhysicalAddress: page * PAGE_SIZE };
  }
  if (sumOfLocks(words) !== before) return 'busy';
  return fault ?? { newest };
}

/** Where the mailbox is, in guest-physical memory. */
export const mailboxBytes = { address: MAILBOX_ADDRESS, byteLength: MAILBOX_PAGES * PAGE_SIZE } as const;

/** The mailbox pages as words. */
export function mailboxWords(ram: GuestRam): Uint32Array {
  const bytes = ram.view(MAILBOX_ADDRESS, MAILBOX_PAGES * PAGE_SIZE);
  return new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
}

/** Locks only grow, so an unchanged sum means that nothing was written. -1 while a page is being written. */
function sumOfLocks(words: Uint32Array): number {
  let sum = 0;
  for (let index = 0; index < MAILBOX_PAGES; index++) {
    const lock = Atomics.load(words, index * PAGE_WORDS + LOCK_WORD);
    if ((lock & 1) !== 0) return -1;
    sum += lock;
  }
  return sum;
}
