# The mailbox: message n = 1, 2, 3... is written by the VMM to page n mod 4 of four, stamped with generation n and the
# VMM's writer number. The pages must therefore hold the newest message S and the three before it. A lost write shows as
# a hole as soon as the next message is there, even if this guest had never seen the lost one. A sequence lock per page
# (2n, odd while being written) tells a concurrent write from a defect.
# Changes rax, rcx, rdx, rsi, rdi, rbx, r8.
check_mailbox:
        mov     ebx, 3                          # attempts
mailbox_attempt:
        push    rbx
        xor     ebx, ebx                        # page
        xor     edx, edx                        # sum of the locks
        xor     ecx, ecx                        # largest lock
        mov     rdi, MAILBOX
1:      mov     eax, [rdi + MAILBOX_LOCK]
        test    al, 1
        jnz     mailbox_busy
        add     rdx, rax
        cmp     rax, rcx
        jbe     2f
        mov     rcx, rax
2:      add     rdi, 0x1000
        inc     ebx
        cmp     ebx, MAILBOX_PAGES
        jb      1b
        shr     rcx, 1                          # S
        push    rdx
        push    rcx
        mov     qword ptr [r15 + C_DEFECT + 8], 0       # address of a page found wrong in this attempt

        xor     ebx, ebx
        mov     rdi, MAILBOX
3:      mov     rdx, [rsp]
        sub     rdx, rbx
        and     edx, MAILBOX_PAGES - 1
        neg     rdx
        add     rdx, [rsp]                      # message expected here: S - ((S - page) mod 4)
        jle     mailbox_page_empty
        mov     r8, rdi
        shr     r8, 12
        imul    eax, r8d, MIX_PAGE
        add     eax, MIX_HOST_WRITER
        imul    ecx, edx, MIX_GENERATION
        add     eax, ecx
        shl     rax, 32
        or      rax, HOST_WRITER
        shl     r8, 32
        or      rdx, r8
        jmp     4f
mailbox_page_empty:
        xor     edx, edx
        xor     eax, eax
4:      mov     rsi, rdi
        mov     ecx, STAMPS
5:      mov     r8, [rsi]
        cmp     r8, rdx
        jne     mailbox_mismatch
        mov     r8, [rsi + 8]
        cmp     r8, rax
        jne     mailbox_mismatch_checksum
        add     rsi, STAMP_SPACING
        test    rdx, rdx
        jz      6f
        add     rax, r11
6:      dec     ecx
        jnz     5b
mailbox_next_page:
        add     rdi, 0x1000
        inc     ebx
        cmp     ebx, MAILBOX_PAGES
        jb      3b

        # Was anything written meanwhile?
        xor     ebx, ebx
        xor     edx, edx
        mov     rdi, MAILBOX
7:      mov     eax, [rdi + MAILBOX_LOCK]
        add     rdx, rax
        add     rdi, 0x1000
        inc     ebx
        cmp     ebx, MAILBOX_PAGES
        jb      7b
        pop     rcx
        pop     rax
        cmp     rax, rdx
        jne     mailbox_busy
        pop     rbx
        mov     rdi, [r15 + C_DEFECT + 8]
        test    rdi, rdi
        jnz     mailbox_failed
        cmp     rcx, [r15 + C_MAIL_SEEN]
        jb      mailbox_backwards
        mov     [r15 + C_MAIL_SEEN], rcx
        mov     qword ptr [r15 + C_MAIL_BUSY], 0
        ret
mailbox_mismatch_checksum:
        mov     rdx, rax
mailbox_mismatch:
        cmp     qword ptr [r15 + C_DEFECT + 8], 0
        jne     mailbox_next_page
        mov     [r15 + C_DEFECT + 8], rdi
        sub     rsi, rdi
        mov     [r15 + C_DEFECT + 16], rsi
        mov     [r15 + C_DEFECT + 24], rdx
        mov     [r15 + C_DEFECT + 32], r8
        jmp     mailbox_next_page
mailbox_busy:
        pop     rbx
        dec     ebx
        jnz     mailbox_attempt
        # Still being written: look again at the next heartbeat, but not for ever.
        inc     qword ptr [r15 + C_MAIL_BUSY]
        cmp     qword ptr [r15 + C_MAIL_BUSY], MAILBOX_PATIENCE
        jae     mailbox_stuck
        ret
