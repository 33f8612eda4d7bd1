# Defects. None of these return.
diagnose_whole_page:
        mov     rdi, [r15 + C_PAGE]
# In: rdi = page, r12 = index. The fast path only knows that something differs; find out what.
diagnose:
        mov     ebp, [r14 + r12*4]              # expected generation
        # All stamps zero?
        xor     ecx, ecx
        xor     eax, eax
        mov     rsi, rdi
1:      or      rax, [rsi]
        or      rax, [rsi + 8]
        add     rsi, STAMP_SPACING
        inc     ecx
        cmp     ecx, STAMPS
        jb      1b
        test    rax, rax
        jnz     2f
        test    ebp, ebp
        jz      diagnose_body
        mov     eax, K_LOST
        xor     esi, esi
        mov     edx, ebp
        xor     r8d, r8d
        jmp     report
2:      # Is every stamp in itself right: index and checksum?
        xor     ecx, ecx
        mov     rsi, rdi
3:      imul    eax, [rsi + 4], MIX_PAGE
        movzx   edx, word ptr [rsi + 8]
        imul    edx, edx, MIX_WRITER
        add     eax, edx
        imul    edx, [rsi], MIX_GENERATION
        add     eax, edx
        imul    edx, ecx, STEP_HIGH
        add     eax, edx
        shl     rax, 32
        mov     edx, ecx
        shl     edx, 16
        or      rax, rdx
        movzx   edx, word ptr [rsi + 8]
        or      rdx, rax
        mov     r8, [rsi + 8]
        cmp     rdx, r8
        jne     diagnosed_torn
        add     rsi, STAMP_SPACING
        inc     ecx
        cmp     ecx, STAMPS
        jb      3b
        # Do all stamps have the same fields?
        xor     ecx, ecx
        mov     rsi, rdi
        mov     rdx, [rdi]
4:      mov     r8, [rsi]
        cmp     rdx, r8
        jne     diagnosed_torn
        movzx   eax, word ptr [rsi + 8]
        cmp     ax, [rdi + 8]
        jne     diagnosed_torn
        add     rsi, STAMP_SPACING
        inc     ecx
        cmp     ecx, STAMPS
        jb      4b
        # A whole page, but the wrong one.
        xor     esi, esi
        mov     rdx, rdi
        shr     rdx, 12
        mov     r8d, [rdi + 4]
        mov     eax, K_MISPLACED
        cmp     rdx, r8
        jne     report
        mov     rdx, [r15 + C_VCPU]
        movzx   r8d, word ptr [rdi + 8]
        mov     eax, K_FOREIGN
        cmp     rdx, r8
        jne     report
        mov     edx, ebp
        mov     r8d, [rdi]
        mov     eax, K_STALE
        cmp     r8d, edx
        jb      report
        mov     eax, K_TABLE
        ja      report
diagnose_body:
        # The stamps are right, so the body is not (whole-page mode).
        test    byte ptr [r15 + C_FLAGS], FLAG_WHOLE_PAGE
        jz      diagnosed_changed
        xor     edx, edx
        test    ebp, ebp
        jz      5f
        mov     rdx, [rdi + 8]
        lea     rdx, [rdx + r11*2]
        lea     rdx, [rdx + r11*4]
5:      mov     rsi, rdi
        mov     ebx, STAMPS - 1
6:      add     rsi, 16
        mov     ecx, GAP_QWORDS
7:      mov     r8, [rsi]
        cmp     r8, rdx
        jne     diagnosed_torn
        add     rsi, 8
        dec     ecx
        jnz     7b
        dec     ebx
        jnz     6b
diagnosed_changed:
        # The page is right now: another writer has changed it during the check.
        mov     eax, K_CHANGED
        xor     esi, esi
        mov     edx, ebp
        mov     r8d, [rdi]
        jmp     report
diagnosed_torn:
        mov     eax, K_TORN
        sub     rsi, rdi
        jmp     report

audit_failed:
        mov     eax, K_TABLE
        mov     rdi, r14
        xor     esi, esi
        mov     rdx, r10
        mov     r8, r9
        jmp     report
progress_failed:
        mov     eax, K_PROGRESS
        mov     rdi, r15
        mov     esi, C_WRITES
        mov     rdx, r10
        mov     r8, [r15 + C_WRITES]
        jmp     report
seen_failed:
        mov     r8, rax
        mov     rdi, rsi
        mov     eax, K_PROGRESS
        mov     esi, C_WRITES
        jmp     report
mailbox_failed:
        mov     rsi, [r15 + C_DEFECT + 16]
        mov     rdx, [r15 + C_DEFECT + 24]
        mov     r8, [r15 + C_DEFECT + 32]
        mov     eax, K_MAILBOX
        jmp     report
mailbox_backwards:
        mov     r8, rcx
        mov     rdx, [r15 + C_MAIL_SEEN]
        mov     edi, MAILBOX
        xor     esi, esi
        mov     eax, K_MAILBOX
        jmp     report
mailbox_stuck:
        xor     edx, edx
        mov     r8, [r15 + C_MAIL_BUSY]
        mov     edi, MAILBOX
        mov     esi, MAILBOX_LOCK
        mov     eax, K_MAILBOX
        jmp     report
clock_failed:
        mov     r8, rax
        mov     rdx, rcx
        mov     rdi, r15
        mov     esi, C_CLOCK
        mov     eax, K_CLOCK
        jmp     report
bad_parameters:
        # rdi = parameters
        mov     eax, K_PARAMETERS
        xor     esi, esi
        mov     edx, PARAMS_VERSION
        mov     r8d, [rdi + P_VERSION]

# eax = kind, rdi = address, rsi = offset in it, rdx = expected, r8 = found.
report:
        mov     [r15 + C_DEFECT], rax
        mov     [r15 + C_DEFECT + 8], rdi
        mov     [r15 + C_DEFECT + 16], rsi
        mov     [r15 + C_DEFECT + 24], rdx
        mov     [r15 + C_DEFECT + 32], r8
        mov     dword ptr [SHARED + SHARED_STOP], 1
        mov     rdi, [r15 + C_VCPU]
        shl     rdi, 12
        lea     rdi, [rdi + LINES + 4]
        lea     rsi, [rip + text_defect]
        call    put_text
        mov     ecx, [r15 + C_DEFECT]
        lea     rsi, [rip + text_kinds]
1:      dec     ecx
        jz      2f
        movzx   eax, byte ptr [rsi]
        lea     rsi, [rsi + rax + 1]
        jmp     1b
2:      call    put_text
        lea     rsi, [rip + text_vcpu]
        call    put_text
        mov     rax, [r15 + C_VCPU]
        mov     ecx, 1
        call    put_decimal
        lea     rsi, [rip + text_gpa]
        call    put_text
        mov     rax, [r15 + C_DEFECT + 8]
        call    put_hexadecimal
        lea     rsi, [rip + text_offset]
        call    put_text
        mov     rax, [r15 + C_DEFECT + 16]
        call    put_hexadecimal
        lea     rsi, [rip + text_expected]
        call    put_text
        mov     rax, [r15 + C_DEFECT + 24]
        call    put_hexadecimal
        lea     rsi, [rip + text_found]
        call    put_text
        mov     rax, [r15 + C_DEFECT + 32]
        call    put_hexadecimal
        call    print_line
        mov     rax, [r15 + C_VCPU]
        shl     eax, 8
        or      eax, [r15 + C_DEFECT]
        mov     edx, PORT_DEFECT
        out     dx, eax
# Where every vCPU stays once one has found a defect: it sleeps, and can still be paused.
stopped:
        mov     eax, 1000000
        mov     edx, PORT_PACER
        out     dx, eax
        jmp     stopped
