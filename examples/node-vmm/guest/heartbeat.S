# Heartbeat (vCPU 0)
# In: rax = clock. Keeps rdi; changes rax, rcx, rdx, rsi, rbx, r8.
heartbeat:
        push    rdi
        push    rax

        # Other vCPUs' counts must not go backwards. Their sum is printed.
        xor     ecx, ecx
        xor     r8d, r8d
        mov     rsi, CONTROL
1:      mov     rax, [rsi + C_WRITES]
        mov     rdx, [r15 + C_SEEN + rcx*8]
        cmp     rax, rdx
        jb      seen_failed
        mov     [r15 + C_SEEN + rcx*8], rax
        add     r8, rax
        add     rsi, 0x1000
        inc     ecx
        cmp     rcx, [r15 + C_VCPUS]
        jb      1b
        push    r8
        call    check_mailbox
        pop     r8

        inc     qword ptr [r15 + C_BEATS]
        mov     rdi, LINES + 4
        lea     rsi, [rip + text_heartbeat]
        call    put_text
        mov     rax, [r15 + C_BEATS]
        mov     ecx, 6
        call    put_decimal
        lea     rsi, [rip + text_clock]
        call    put_text
        mov     rax, [rsp]
        mov     ecx, 1
        call    put_decimal
        lea     rsi, [rip + text_gap]
        call    put_text
        mov     rax, [rsp]
        sub     rax, [r15 + C_BEAT_LAST]
        mov     ecx, 1
        call    put_decimal
        lea     rsi, [rip + text_stall]
        call    put_text
        mov     rax, [r15 + C_STALL]
        mov     ecx, 1
        call    put_decimal
        lea     rsi, [rip + text_writes]
        call    put_text
        mov     rax, r8
        mov     ecx, 1
        call    put_decimal
        lea     rsi, [rip + text_mail]
        call    put_text
        mov     rax, [r15 + C_MAIL_SEEN]
        mov     ecx, 1
        call    put_decimal
        call    put_picture
        mov     qword ptr [r15 + C_STALL], 0
        pop     rax
        mov     [r15 + C_BEAT_LAST], rax
        # The next heartbeat is due a period after this one was due; if that time has passed, a period from now.
        mov     rsi, [r15 + C_PARAMS]
        mov     ecx, [rsi + P_HEARTBEAT]
        mov     rdx, [r15 + C_BEAT_NEXT]
        add     rdx, rcx
        cmp     rdx, rax
        ja      1f
        lea     rdx, [rax + rcx]
1:      mov     [r15 + C_BEAT_NEXT], rdx
        call    print_line
        pop     rdi
        ret

# The next row of the picture -> [rdi]: 64 cells in a ring, each alive (#) when it or its right neighbour was, but not when all three were:
# the cellular automaton "rule 110". What it draws depends on every row before, so that a row that is lost or drawn twice breaks it.
# Changes rax, rcx, rdx, rsi.
put_picture:
        mov     rax, [r15 + C_CELLS]
        mov     rcx, rax
        rol     rcx, 1                          # right neighbours
        mov     rdx, rax
        ror     rdx, 1                          # left neighbours
        and     rdx, rcx
        and     rdx, rax                        # all three alive
        or      rax, rcx
        xor     rax, rdx
        mov     [r15 + C_CELLS], rax
        mov     rdx, rax
        lea     rsi, [rip + text_picture]
        call    put_text
        mov     ecx, 64
1:      mov     al, 0x20
        shl     rdx, 1                          # the leftmost cell is the highest bit
        jnc     2f
        mov     al, 0x23
2:      stosb
        dec     ecx
        jnz     1b
        mov     al, 0x7c
        stosb
        ret

print_started:
        push    rdi
        mov     rdi, LINES + 4
        lea     rsi, [rip + text_started]
        call    put_text
        mov     rax, [r15 + C_VCPUS]
        mov     ecx, 1
        call    put_decimal
        lea     rsi, [rip + text_owned]
        call    put_text
        mov     rax, r13
        mov     ecx, 1
        call    put_decimal
        call    print_line
        pop     rdi
        ret
