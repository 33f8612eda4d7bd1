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
        mov     qword ptr [r15 + C_STALL], 0
        pop     rax
        mov     [r15 + C_BEAT_LAST], rax
        # The next one: on the grid, unless more than a period is already lost.
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
