# The test guest of node-vmm: a workload that writes memory and notices when memory is not what it wrote.
#
# QEMU's migration test guest adds one to the first byte of every page, so all pages look alike and a page delivered
# to the wrong address passes. Here every page says which page it is, which generation, who wrote it, and carries a
# checksum, six times over (see src/guest/page-stamp.ts). Before a vCPU rewrites a page that it owns, it checks all of
# that against a table of expected generations. What is noticed, and by what:
#
#   lost        the page is zero though it was written before            stamps against table
#   stale       the page is a complete older generation                  stamps against table
#   torn        the stamps (or, whole-page mode, the body) disagree      stamps against each other, checksum
#   misplaced   the page is a complete page of another address           page number in the stamp
#   foreign     another vCPU wrote it                                    writer in the stamp
#   table       the table is older than the page, or page and table are  stamps against table; a running sum over the
#               both old                                                 table ("audit") against writes in a register
#   progress    a control page or a vCPU's registers are old             writes counted in a register and in memory;
#                                                                        vCPU 0 watches the other vCPUs' counts
#   mailbox     a page written by the VMM is old, torn or lost           four pages in rotation, see check_mailbox
#   clock       the clock went backwards
#
# The code must also run on a KVM that has no hardware for it and interprets every instruction (one to two million a
# second), so: no SSE, no x87, no BMI, no interrupts, no calls in the page loop, and string instructions where they
# save instructions. A visit of a page costs about 75 instructions.
#
# Entry, the same for every vCPU (see src/guest/layout.ts): 64-bit mode, identity mapping, interrupts off,
#   RDI = guest-physical address of the boot parameters, RSI = vCPU index. The guest sets its own stack.
# Nothing is ever written inside the image, so that the VMM can compare it with the original at any time.

        .intel_syntax noprefix
        .code64

# Registers in the page loop. Counts that must survive a stale memory page live in registers on purpose.
#   rdi page address            r8  scratch                     r12 index of the page among the owned ones
#   rax rcx rdx     scratch     r9  audit: sum of the table     r13 pages owned
#   rsi end of its range            entries before the cursor   r14 table of expected generations (u32 each)
#   rbx pages left in batch     r10 page writes so far          r15 control page
#   rbp audit: cursor           r11 STAMP_STEP

        .include "constants.S"
        .section .text
        .include "start.S"                      # must come first: the entry is the first byte of the image
        .include "page-loop.S"
        .include "pacing.S"
        .include "heartbeat.S"
        .include "mailbox.S"
        .include "defects.S"
        .include "console.S"
