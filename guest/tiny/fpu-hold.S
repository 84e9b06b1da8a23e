/*
 * fpu_hold(in, out, loops): loads every register of struct fpu_regs, holds them live through a loop
 * that touches only rcx and rip, and stores what they hold then. fpu_hold_avx() does it for the AVX
 * halves. Offsets: struct fpu_regs in fpu.c, which checks them.
 */

#define X87 0
#define YMM 128
#define GPR 640
#define MXCSR 704
#define FCW 708
#define FLAGS 712

    .macro hold
1:  jrcxz 2f
    leaq -1(%rcx), %rcx
    jmp 1b
2:
    .endm

    .text
    .globl fpu_hold
fpu_hold:
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rdx, %rcx
    fninit
    fldcw FCW(%rdi)
    ldmxcsr MXCSR(%rdi)
    .irp i, 7, 6, 5, 4, 3, 2, 1, 0
    fldt X87 + 16 * \i(%rdi)
    .endr
    .irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    movdqu YMM + 32 * \i(%rdi), %xmm\i
    .endr
    .irp i, 8, 9, 10, 11, 12, 13, 14, 15
    movq GPR + 8 * (\i - 8)(%rdi), %r\i
    .endr
    pushq FLAGS(%rdi)
    popfq
    hold
    pushfq
    popq FLAGS(%rsi)
    cld
    .irp i, 8, 9, 10, 11, 12, 13, 14, 15
    movq %r\i, GPR + 8 * (\i - 8)(%rsi)
    .endr
    .irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    movdqu %xmm\i, YMM + 32 * \i(%rsi)
    .endr
    stmxcsr MXCSR(%rsi)
    fnstcw FCW(%rsi)
    .irp i, 0, 1, 2, 3, 4, 5, 6, 7
    fstpt X87 + 16 * \i(%rsi)
    .endr
    fninit
    pushq $0x1f80
    ldmxcsr (%rsp)
    popq %rax
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    ret

    .globl fpu_hold_avx
fpu_hold_avx:
    movq %rdx, %rcx
    .irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    vmovdqu YMM + 32 * \i(%rdi), %ymm\i
    .endr
    hold
    .irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    vmovdqu %ymm\i, YMM + 32 * \i(%rsi)
    .endr
    vzeroupper
    ret

    .section .note.GNU-stack, "", @progbits
