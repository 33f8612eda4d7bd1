# The page loop
# Written once as a macro and assembled for four modes, because on an emulating KVM a test and a branch a page are
# two percent. One visit = audit step, check, write, choose the next page.
# In: rdi = page, r12 = its index.
        .macro  page_loop mode, random, whole
first_\mode:                                    # within reach of jrcxz
        jmp     first_visit_\mode
visit_\mode:
        # Audit step: one more table entry into the sum. When the cursor has gone round, the sum must equal the
        # number of writes; a write behind the cursor is added as it happens (below).
        mov     eax, [r14 + rbp*4]
        add     r9, rax
        inc     rbp

        # First half of a stamp (rdx): generation | page number << 32.
        # Second half (rax): writer | index << 16 | checksum << 32, with checksum = the other fields, each times an
        # odd constant, summed. So the next stamp and the next generation are one addition away.
        mov     rdx, rdi
        shr     rdx, 12
        imul    eax, edx, MIX_PAGE
        shl     rdx, 32
        mov     ecx, [r14 + r12*4]              # expected generation
        imul    r8d, ecx, MIX_GENERATION
        add     eax, r8d
        shl     rax, 32
        add     rax, [r15 + C_WRITER]
        jrcxz   first_\mode
        or      rdx, rcx

        .if     \whole
        mov     [r15 + C_PAGE], rdi
        lea     r8, [rax + r11*2]
        lea     r8, [r8 + r11*4]                # body
        mov     rsi, rax
        .rept   STAMPS - 1
        cmp     [rdi], rdx
        jne     diagnose_whole_page
        cmp     [rdi + 8], rsi
        jne     diagnose_whole_page
        add     rsi, r11
        add     rdi, 16
        mov     rax, r8
        mov     ecx, GAP_QWORDS
        repe    scasq
        jne     diagnose_whole_page
        .endr
        cmp     [rdi], rdx
        jne     diagnose_whole_page
        cmp     [rdi + 8], rsi
        jne     diagnose_whole_page
        add     rsi, [r15 + C_NEXT_STAMPS]
        .else
        .set    at, 0
        .rept   STAMPS
        cmp     [rdi + at], rdx
        jne     diagnose
        cmp     [rdi + at + 8], rax
        jne     diagnose
        .if     at < (STAMPS - 1) * STAMP_SPACING
        add     rax, r11
        .endif
        .set    at, at + STAMP_SPACING
        .endr
        add     rax, [r15 + C_NEXT_STAMPS]
        .endif

        # Write. The order of the stores is part of the contract: a paused guest shows a prefix of them, in the page
        # that C_IN_FLIGHT names (see check-memory.ts).
write_\mode:
        inc     rdx                             # next generation
        .if     \whole
        mov     rdi, [r15 + C_PAGE]
        mov     [r15 + C_IN_FLIGHT], rdi
        lea     r8, [rsi + r11*2]
        lea     r8, [r8 + r11*4]
        mov     rax, r8
        .rept   STAMPS - 1
        mov     [rdi], rdx
        mov     [rdi + 8], rsi
        add     rsi, r11
        add     rdi, 16
        mov     ecx, GAP_QWORDS
        rep     stosq
        .endr
        mov     [rdi], rdx
        mov     [rdi + 8], rsi
        mov     rdi, [r15 + C_PAGE]
        mov     rsi, [r15 + C_RANGE_END]
        .else
        mov     [r15 + C_IN_FLIGHT], rdi
        .set    at, 0
        .rept   STAMPS
        mov     [rdi + at], rdx
        mov     [rdi + at + 8], rax
        .if     at < (STAMPS - 1) * STAMP_SPACING
        add     rax, r11
        .endif
        .set    at, at + STAMP_SPACING
        .endr
        .endif
        mov     [r14 + r12*4], edx
        inc     qword ptr [r15 + C_WRITES]      # read-modify-write: a stale control page stays wrong and is noticed
        inc     r10
        cmp     r12, rbp                        # behind the cursor: it has been summed already, so add this write
        adc     r9, 0
        cmp     rbp, r13
        jae     audit_complete_\mode
next_\mode:
        .if     \random
        imul    ecx, [r15 + C_RNG], 1664525     # Numerical Recipes' LCG; the high bits choose the page
        add     ecx, 1013904223
        mov     [r15 + C_RNG], ecx
        imul    rcx, r13
        shr     rcx, 32
        mov     r12, rcx
        call    map_index
        .else
        inc     r12
        add     rdi, [r15 + C_STRIDE]
        cmp     rdi, rsi
        jae     next_range_\mode
        .endif
chosen_\mode:
        dec     rbx
        jnz     visit_\mode
        jmp     batch_end

        .ifeq   \random
next_range_\mode:
        cmp     r12, r13
        jb      1f
        xor     r12d, r12d
1:      call    map_index
        jmp     chosen_\mode
        .endif

audit_complete_\mode:
        cmp     r9, r10
        jne     audit_failed
        xor     r9d, r9d
        xor     ebp, ebp
        jmp     next_\mode

# A page that was never written must still be zero: where the stamps go, or all of it in whole-page mode. rcx = 0.
first_visit_\mode:
        .if     \whole
        mov     [r15 + C_PAGE], rdi
        mov     rsi, rax
        add     rsi, [r15 + C_FIRST_STAMPS]
        xor     eax, eax
        mov     ecx, 512
        repe    scasq
        jne     diagnose_whole_page
        .else
        .set    at, 0
        .rept   STAMPS
        cmp     [rdi + at], rcx
        jne     diagnose
        cmp     [rdi + at + 8], rcx
        jne     diagnose
        .set    at, at + STAMP_SPACING
        .endr
        add     rax, [r15 + C_FIRST_STAMPS]
        .endif
        jmp     write_\mode
        .endm

        page_loop sequential, 0, 0
        page_loop random, 1, 0
        page_loop sequential_whole, 0, 1
        page_loop random_whole, 1, 1

# Index among the owned pages (r12) -> page address (rdi), and the end of the range that it is in (rsi). Changes rcx.
map_index:
        mov     rcx, r12
        imul    rcx, [r15 + C_VCPUS]
        add     rcx, [r15 + C_VCPU]
        lea     rsi, [r15 + C_RANGE]
1:      cmp     rcx, [rsi]
        jb      2f
        sub     rcx, [rsi]
        add     rsi, 16
        jmp     1b
2:      shl     rcx, 12
        add     rcx, [rsi + 8]
        mov     rdi, rcx
        mov     rcx, [rsi]
        shl     rcx, 12
        add     rcx, [rsi + 8]
        mov     rsi, rcx
        mov     [r15 + C_RANGE_END], rsi
        ret
