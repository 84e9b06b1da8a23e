/*
 * A further processor's way from SIPI to ring 3. smp.c copies smp_trampoline to a page below 1 MiB,
 * sets the smp_next_ words, and starts one processor at a time.
 */

#define SEL_KERNEL_DS 0x10
#define SEL_KERNEL_CS32 0x18

    .section .text.trampoline, "ax"
    .code16
    .globl smp_trampoline, smp_trampoline_end
smp_trampoline: /* ip = 0, cs = the page's segment */
    cli
    lgdtl %cs:smp_gdt_desc - smp_trampoline
    movl %cr0, %eax
    orl $1, %eax
    movl %eax, %cr0
    ljmpl $SEL_KERNEL_CS32, $smp_start32
smp_gdt_desc:
    .word tiny_gdt_size - 1
    .long tiny_gdt
smp_trampoline_end:

    .text
    .code32
smp_start32:
    movl $SEL_KERNEL_DS, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl smp_next_stack, %esi
    movl $smp_processor_main, %edi
    movl smp_next_tss, %ebp
    jmp tiny_long_mode

    .bss
    .balign 4
    .globl smp_next_stack, smp_next_tss
smp_next_stack:
    .zero 4
smp_next_tss:
    .zero 4

    .section .note.GNU-stack, "", @progbits
