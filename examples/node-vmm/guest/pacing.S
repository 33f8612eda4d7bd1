# Between batches: clock, stop flag, heartbeat, pacing
batch_end:
        cmp     [r15 + C_WRITES], r10
        jne     progress_failed
        call    read_clock

        # A batch should take 1..2 ms, whatever the machine: long enough that the exits do not matter, short enough
        # for heartbeats.
        mov     rcx, rax
        sub     rcx, [r15 + C_BATCH_START]
        mov     rdx, [r15 + C_BATCH]
        cmp     rcx, 1000
        jb      1f
        cmp     rcx, 2000
        jbe     3f
        shr     rdx, 1
        jnz     2f
        inc     rdx
        jmp     2f
1:      shl     rdx, 1
        cmp     rdx, 65536
        ja      3f
2:      mov     [r15 + C_BATCH], rdx
3:
        # Rate: the batch just done pays for (pages * 10^6 / rate) microseconds from the previous deadline on.
        mov     rsi, [r15 + C_PARAMS]
        mov     ecx, [rsi + P_RATE]
        test    ecx, ecx
        jz      pace
        push    rax
        mov     rax, [r15 + C_BATCH_DONE]
        imul    rax, rax, 1000000
        add     rax, [r15 + C_CARRY]
        xor     edx, edx
        div     rcx
        mov     [r15 + C_CARRY], rdx
        mov     rdx, [r15 + C_DEADLINE]
        add     rdx, rax
        pop     rax
        # After a stop (the guest was paused, or the rate is out of reach) do not try to catch up.
        lea     rcx, [rdx + 50000]
        cmp     rax, rcx
        jb      1f
        mov     rdx, rax
1:      mov     [r15 + C_DEADLINE], rdx
        jmp     pace

batch_begin:
        call    read_clock
pace:
        # In: rax = clock. Loop until the deadline has come.
        cmp     dword ptr [SHARED + SHARED_STOP], 0
        jne     stopped
        cmp     qword ptr [r15 + C_VCPU], 0
        jne     1f
        cmp     rax, [r15 + C_BEAT_NEXT]
        jb      1f
        call    heartbeat
        call    read_clock
1:      test    r13, r13
        jz      idle
        mov     rsi, [r15 + C_PARAMS]
        mov     ecx, [rsi + P_RATE]
        test    ecx, ecx
        jz      unlimited
        mov     rdx, [r15 + C_DEADLINE]
        sub     rdx, rax
        jbe     limited
2:      # Sleep at most 2 ms at a time: the step between two clock readings is how the guest sees its own downtime.
        cmp     rdx, 2000
        jbe     3f
        mov     edx, 2000
3:      mov     eax, edx
        mov     edx, PORT_PACER
        out     dx, eax
        jmp     batch_begin
idle:
        mov     edx, 2000
        jmp     2b
unlimited:
        mov     [r15 + C_DEADLINE], rax
        mov     rbx, [r15 + C_BATCH]
        jmp     4f
limited:
        # Not more than 2 ms worth of pages, so that a slow rate is even and not in bursts: rate / 512, at least 1.
        mov     rbx, [r15 + C_BATCH]
        shr     ecx, 9
        inc     ecx
        cmp     rbx, rcx
        jbe     4f
        mov     rbx, rcx
4:      mov     [r15 + C_BATCH_DONE], rbx
        mov     [r15 + C_BATCH_START], rax
        mov     rsi, [r15 + C_RANGE_END]
        mov     rax, [r15 + C_LOOP]
        jmp     rax

# Clock -> rax. Notes the largest step. Changes rcx, rdx.
read_clock:
        mov     edx, PORT_CLOCK_LOW
        in      eax, dx                         # latches the high half for this vCPU
        mov     ecx, eax
        mov     edx, PORT_CLOCK_HIGH
        in      eax, dx
        shl     rax, 32
        or      rax, rcx
        mov     rcx, [r15 + C_CLOCK]
        test    rcx, rcx
        jz      2f
        mov     rdx, rax
        sub     rdx, rcx
        jb      clock_failed
        cmp     rdx, [r15 + C_STALL]
        jbe     1f
        mov     [r15 + C_STALL], rdx
1:      cmp     rdx, [r15 + C_STALL_EVER]
        jbe     2f
        mov     [r15 + C_STALL_EVER], rdx
2:      mov     [r15 + C_CLOCK], rax
        ret
