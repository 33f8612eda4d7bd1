# Entry of every vCPU: parameters, owned pages, first clock reading.

        .globl _start
_start:
        # A stack and a control page of one's own.
        mov     rax, rsi
        shl     rax, 12
        lea     rsp, [rax + STACKS + 0x1000]
        lea     r15, [rax + CONTROL]
        mov     [r15 + C_VCPU], rsi
        mov     [r15 + C_PARAMS], rdi

        mov     rax, 0x3147544957444f47         # "GODWITG1"
        cmp     [rdi + P_MAGIC], rax
        jne     bad_parameters
        cmp     dword ptr [rdi + P_VERSION], PARAMS_VERSION
        jne     bad_parameters
        mov     ecx, [rdi + P_VCPUS]
        mov     [r15 + C_VCPUS], rcx
        cmp     rsi, rcx
        jae     bad_parameters
        cmp     ecx, 8
        ja      bad_parameters
        mov     eax, ecx
        shl     rax, 12
        mov     [r15 + C_STRIDE], rax
        mov     eax, [rdi + P_FLAGS]
        mov     [r15 + C_FLAGS], eax
        test    al, FLAG_WHOLE_PAGE
        lea     rdx, [rip + visit_sequential]
        lea     rcx, [rip + visit_random]
        jz      1f
        lea     rdx, [rip + visit_sequential_whole]
        lea     rcx, [rip + visit_random_whole]
1:      test    al, FLAG_RANDOM
        jz      1f
        mov     rdx, rcx
1:      mov     [r15 + C_LOOP], rdx
        imul    eax, esi, MIX_WRITER
        shl     rax, 32
        or      rax, rsi
        mov     [r15 + C_WRITER], rax
        mov     rax, NEXT_GENERATION
        mov     [r15 + C_FIRST_STAMPS], rax
        mov     rax, NEXT_GENERATION - (STAMPS - 1) * STAMP_STEP
        mov     [r15 + C_NEXT_STAMPS], rax
        imul    eax, esi, 0x9e3779b1 - 0x100000000
        add     eax, [rdi + P_SEED]
        mov     [r15 + C_RNG], eax
        mov     r14, [rdi + P_TABLE + rsi*8]
        mov     r11, STAMP_STEP

        # Copy the ranges, count the pages.
        mov     ecx, [rdi + P_RANGES]
        cmp     ecx, 8
        ja      bad_parameters
        xor     r13d, r13d
        lea     rdx, [rdi + P_RANGE]
        lea     r8, [r15 + C_RANGE]
        test    ecx, ecx
        jz      2f
1:      mov     rax, [rdx]
        mov     [r8 + 8], rax
        mov     rax, [rdx + 8]
        mov     [r8], rax
        add     r13, rax
        add     rdx, 16
        add     r8, 16
        dec     ecx
        jnz     1b
2:      xor     eax, eax
        mov     [r8 + 8], rax
        dec     rax
        shr     rax, 1
        mov     [r8], rax

        # Page i of the whole working set belongs to vCPU i mod vCPUs: neighbours have different owners, so that two
        # vCPUs keep hitting the same word of a dirty bitmap. Owned = (pages - vcpu + vCPUs - 1) / vCPUs.
        mov     rax, r13
        add     rax, [r15 + C_VCPUS]
        dec     rax
        sub     rax, rsi
        xor     edx, edx
        div     qword ptr [r15 + C_VCPUS]
        mov     r13, rax
        mov     [r15 + C_OWNED], rax

        xor     r9d, r9d
        xor     r10d, r10d
        xor     ebp, ebp
        xor     r12d, r12d
        mov     rax, FIRST_CELLS
        mov     [r15 + C_CELLS], rax
        mov     qword ptr [r15 + C_BATCH], 8
        call    read_clock
        mov     [r15 + C_BATCH_START], rax
        mov     [r15 + C_DEADLINE], rax
        mov     [r15 + C_BEAT_LAST], rax
        mov     ecx, [rdi + P_HEARTBEAT]
        add     rax, rcx
        mov     [r15 + C_BEAT_NEXT], rax
        cmp     qword ptr [r15 + C_VCPU], 0
        jne     1f
        call    print_started
1:      test    r13, r13
        jz      batch_begin                     # owns nothing: only paces, and prints heartbeats if it is vCPU 0
        call    map_index
        jmp     batch_begin
