# Console
# Counted text at rsi -> [rdi]. Changes rcx, rsi.
put_text:
        movzx   ecx, byte ptr [rsi]
        inc     rsi
        rep     movsb
        ret

# rax in decimal, at least ecx digits -> [rdi]. Changes rax, rbx, rcx, rdx, rsi.
put_decimal:
        sub     rsp, 32
        lea     rsi, [rsp + 32]
        mov     ebx, 10
1:      xor     edx, edx
        div     rbx
        add     edx, 0x30
        dec     rsi
        mov     [rsi], dl
        dec     ecx
        jg      1b
        test    rax, rax
        jnz     1b
        lea     rcx, [rsp + 32]
        sub     rcx, rsi
        rep     movsb
        add     rsp, 32
        ret

# rax as 16 hexadecimal digits -> [rdi]. Changes rax, rcx, rdx.
put_hexadecimal:
        mov     rdx, rax
        mov     ecx, 16
1:      rol     rdx, 4
        mov     eax, edx
        and     eax, 15
        add     eax, 0x30
        cmp     eax, 0x3a
        jb      2f
        add     eax, 0x27
2:      stosb
        dec     ecx
        jnz     1b
        ret

# Ends the line in this vCPU's buffer (rdi = its end) and prints it under the console lock, so that lines of several
# vCPUs do not mix. Changes rax, rcx, rdx, rsi, rdi.
print_line:
        mov     al, 10
        stosb
        mov     rsi, [r15 + C_VCPU]
        shl     rsi, 12
        add     rsi, LINES
        mov     rcx, rdi
        sub     rcx, rsi
        sub     ecx, 4
        mov     [rsi], ecx
1:      mov     eax, 1
        xchg    [SHARED + SHARED_LOCK], eax
        test    eax, eax
        jz      2f
        mov     eax, 100                        # somebody else is printing: let them have the processor
        mov     edx, PORT_PACER
        out     dx, eax
        jmp     1b
2:      test    byte ptr [r15 + C_FLAGS], FLAG_LINE_PORT
        jnz     3f
        add     rsi, 4
        mov     edx, PORT_SERIAL
        rep     outsb
        jmp     4f
3:      mov     eax, esi
        mov     edx, PORT_LINE
        out     dx, eax
4:      mov     dword ptr [SHARED + SHARED_LOCK], 0
        ret

# ---- texts: a length byte, then the text; octal, because that is what the assembler takes in a string ----
text_started:   .ascii "\026[guest] started vcpus="
text_owned:     .ascii "\007 owned="
text_heartbeat: .ascii "\022[guest] heartbeat "
text_clock:     .ascii "\007 clock="
text_gap:       .ascii "\007us gap="
text_stall:     .ascii "\011us stall="
text_writes:    .ascii "\012us writes="
text_mail:      .ascii "\006 mail="
text_picture:   .ascii "\002 |"
text_defect:    .ascii "\024[guest] defect kind="
text_vcpu:      .ascii "\006 vcpu="
text_gpa:       .ascii "\007 gpa=0x"
text_offset:    .ascii "\012 offset=0x"
text_expected:  .ascii "\014 expected=0x"
text_found:     .ascii "\011 found=0x"
# In the order of their numbers.
text_kinds:
        .ascii "\004lost"
        .ascii "\005stale"
        .ascii "\004torn"
        .ascii "\011misplaced"
        .ascii "\016foreign-writer"
        .ascii "\005table"
        .ascii "\010progress"
        .ascii "\007mailbox"
        .ascii "\005clock"
        .ascii "\007changed"
        .ascii "\012parameters"
