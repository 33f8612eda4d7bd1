# The sweep guest: a boot sector that adds one to the first byte of every page of a range, for ever.
#
# The workload of QEMU's own migration test, so that the same guest runs in QEMU, as a disk, and in node-vmm, as a boot
# image. The bytes prove by themselves that no increment was lost: at any moment all of them are equal, or those from
# some page on are one less (src/guest/check-sweep.ts). A page that comes to another's address looks right here; the
# memory guest is the one that notices.
#
# The code must also run on a KVM that interprets every instruction: 32-bit protected mode, no stack, no interrupts,
# three instructions a page.

        .intel_syntax noprefix
        .set COM1_DATA,         0x3f8
        .set COM1_STATUS,       0x3fd
        .set TRANSMITTER_EMPTY, 0x20
        .set SYSTEM_CONTROL,    0x92            # bit 0 resets the machine, bit 1 opens address line 20
        .set PAGE,              4096
        .set PASSES_PER_LETTER, 64

        .section .text
        .code16
        .globl _start
_start: jmp     begin

# src/guest/sweep-image.ts overwrites these parameters in the image.
        .org    4
parameters:
first:  .long   0x100000                        # address of the first page
end:    .long   0x6400000                       # address behind the last one; with `first` there is no page at all
passes: .long   0                               # how many; 0: for ever

begin:  cli
        xor     ax, ax
        mov     ds, ax
        in      al, SYSTEM_CONTROL
        or      al, 2
        and     al, 0xfe
        out     SYSTEM_CONTROL, al
        lgdt    [table_of_segments]
        mov     eax, cr0
        or      al, 1
        mov     cr0, eax
        ljmp    0x08:protected

        .code32
protected:
        mov     ax, 0x10
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     esi, [first]
        mov     edi, [end]

        # Clear the first bytes, since a BIOS may have used this memory.
        mov     eax, esi
clear:  cmp     eax, edi
        jae     cleared
        mov     byte ptr [eax], 0
        add     eax, PAGE
        jmp     clear

cleared:
        xor     ebx, ebx                        # passes so far
pass:   mov     eax, esi
        cmp     eax, edi
        jae     passed
page:   inc     byte ptr [eax]
        add     eax, PAGE
        cmp     eax, edi
        jb      page
passed: inc     ebx
        mov     cl, 'B'
        test    bl, PASSES_PER_LETTER - 1
        jz      print
printed:
        cmp     ebx, [passes]
        jne     pass
        mov     cl, 'D'
        jmp     print

print:  mov     edx, COM1_STATUS
        in      al, dx
        test    al, TRANSMITTER_EMPTY
        jz      print
        mov     edx, COM1_DATA
        mov     al, cl
        out     dx, al
        cmp     cl, 'B'
        je      printed
halted: hlt
        jmp     halted

        .balign 8
segments:
        .quad   0
        .quad   0x00cf9a000000ffff              # code and data: all 4 GiB, 32 bits
        .quad   0x00cf92000000ffff
table_of_segments:
        .word   table_of_segments - segments - 1
        .long   segments

        .org    510
        .word   0xaa55                          # what a BIOS looks for
