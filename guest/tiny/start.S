/*
 * Entry of every tiny guest: from the PVH entry to C code in ring 3, and the few instructions of
 * ring 0 that it may call on.
 *
 * A hypervisor that runs in software what the processor cannot run for it (nested, paravirtual) may
 * emulate ring 0 instruction by instruction, without SSE, and yet run ring 3 at full speed. So ring
 * 0 does next to nothing here: page tables are built by the assembler, everything else is left to
 * ring 3, which sees all memory (U/S set at each level), may use all ports, and fills the IDT
 * itself. What only ring 0 can do, ring 3 asks for by tiny_ring0(), which calls one of the stubs
 * below.
 *
 * Two choices look odd and were forced by such a hypervisor. Its emulated iretq drops IOPL, so ports
 * are also allowed by the TSS bitmap. Its ring 3 gets #UD for `int n`, and a trap by int3 is lost
 * when the machine is saved just then (KVM_GET_VCPU_EVENTS leaves software exceptions out, counting
 * on rip being still before them, which it is not there). So the gate to ring 0 is ud2: a fault,
 * which in the worst case happens again.
 *
 * On entry (PVH, https://xenbits.xen.org/docs/unstable/misc/pvh.html): 32-bit protected mode
 * without paging, flat segments, ebx = address of struct hvm_start_info.
 */

#define SEL_KERNEL_CS 0x08
#define SEL_KERNEL_DS 0x10
#define SEL_KERNEL_CS32 0x18
#define SEL_USER_DS 0x2b
#define SEL_USER_CS 0x33
#define SEL_TSS0 0x40

#define CR4_BASE 0x620     /* PAE, OSFXSR, OSXMMEXCPT */
#define CR4_OSXSAVE 0x40000
#define CR0_BASE 0x80000033 /* PG, NE, ET, MP, PE */
#define MSR_EFER 0xc0000080
#define EFER_LME 0x100
#define RFLAGS_USER 0x3202 /* IOPL 3, IF */

    .section .note.Xen, "a", @note
    .align 4
    .long 4, 4, 18 /* name size, value size, XEN_ELFNOTE_PHYS32_ENTRY */
    .asciz "Xen"
    .long tiny_start32

    .text
    .code32
    .globl tiny_start32
tiny_start32:
    cli
    cld
    movb $0xff, %al /* firmware may have left the PIC and its timer running */
    outb %al, $0x21
    outb %al, $0xa1
    movl %ebx, tiny_start_info

    /* The TSS descriptor is the one thing here that the linker cannot compute. */
    movl $tiny_tss, %eax
    movw %ax, tiny_gdt + SEL_TSS0 + 2
    shrl $16, %eax
    movb %al, tiny_gdt + SEL_TSS0 + 4
    movb %ah, tiny_gdt + SEL_TSS0 + 7

    movl $tiny_stack_top - 8, %esi
    movl $tiny_main, %edi
    movl $SEL_TSS0, %ebp
    /* fall through */

/* Long mode and down to ring 3: esi = user stack, edi = 64-bit entry, ebp = TSS selector. */
    .globl tiny_long_mode
tiny_long_mode:
    movl $1, %eax
    cpuid
    movl $CR4_BASE, %eax
    btl $26, %ecx /* XSAVE */
    jnc 1f
    orl $CR4_OSXSAVE, %eax
1:  movl %eax, %cr4
    movl $tiny_pml4, %eax
    movl %eax, %cr3
    movl $MSR_EFER, %ecx
    movl $EFER_LME, %eax
    xorl %edx, %edx
    wrmsr
    movl $CR0_BASE, %eax
    movl %eax, %cr0
    lgdt tiny_gdt_desc
    ljmp $SEL_KERNEL_CS, $2f

    .code64
2:  movl $SEL_KERNEL_DS, %eax
    movl %eax, %ss
    movl $SEL_USER_DS, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %fs
    movl %eax, %gs
    lidt tiny_idt_desc
    ltr %bp
    movl $tiny_boot_stack_top, %esp
    pushq $SEL_USER_DS
    pushq %rsi
    pushq $RFLAGS_USER
    pushq $SEL_USER_CS
    pushq %rdi
    iretq

/*
 * Vectors 0..31. Each stub of 16 bytes leaves the same frame: vector, error code, then what the
 * processor pushed. The common part goes back to ring 3, into tiny_fault(vector, error, rip,
 * address).
 */
    .balign 16
    .globl tiny_exceptions
tiny_exceptions:
    .set vector, 0
    .rept 32
    .balign 16
    .if ((1 << vector) & 0x60227d00) == 0 /* no error code: push one of our own */
    pushq $0
    .endif
    pushq $vector
    jmp tiny_exception
    .set vector, vector + 1
    .endr

tiny_exception:
    popq %rdi
    popq %rsi
    movq (%rsp), %rdx
    movq %cr2, %rcx
    leaq tiny_fault(%rip), %rax
    movq %rax, (%rsp)
    movq $SEL_USER_CS, 8(%rsp)
    movq $RFLAGS_USER & ~0x200, 16(%rsp)
    movq $tiny_fault_stack_top - 8, 24(%rsp)
    movq $SEL_USER_DS, 32(%rsp)
    iretq

/*
 * Vector 6, the gate behind tiny_ring0(stub, a, b, c): rax = stub, arguments in rdi, rsi, rdx,
 * result in rax. Any instruction but ud2 is an exception like the others.
 */
    .globl tiny_gate
tiny_gate:
    movq (%rsp), %r8
    cmpw $0x0b0f, (%r8)
    jne tiny_exceptions + 16 * 6
    addq $2, (%rsp)
    call *%rax
    iretq

/* Stubs to be called through the gate. */
    .globl ring0_rdmsr, ring0_wrmsr, ring0_cpuid, ring0_halt, ring0_xsetbv
    .globl ring0_get_dr, ring0_set_dr
ring0_rdmsr: /* (msr) -> value */
    movl %edi, %ecx
    rdmsr
    shlq $32, %rdx
    orq %rdx, %rax
    ret

ring0_wrmsr: /* (msr, value) */
    movl %edi, %ecx
    movl %esi, %eax
    movq %rsi, %rdx
    shrq $32, %rdx
    wrmsr
    ret

/* Asked for in ring 0, as ring 3 may see the bare processor's. */
ring0_cpuid: /* (leaf, subleaf, uint32_t regs[4]) */
    pushq %rbx
    movq %rdx, %r8
    movl %edi, %eax
    movl %esi, %ecx
    cpuid
    movl %eax, (%r8)
    movl %ebx, 4(%r8)
    movl %ecx, 8(%r8)
    movl %edx, 12(%r8)
    popq %rbx
    ret

ring0_halt: /* sleep until an interrupt has been handled */
    sti
    hlt
    cli
    ret

ring0_xsetbv: /* (value of XCR0) */
    xorl %ecx, %ecx
    movl %edi, %eax
    xorl %edx, %edx
    xsetbv
    ret

ring0_set_dr: /* (dr0, dr1, dr2): addresses only, DR7 stays off */
    movq %rdi, %dr0
    movq %rsi, %dr1
    movq %rdx, %dr2
    ret

ring0_get_dr: /* (uint64_t dr[3]) */
    movq %dr0, %rax
    movq %rax, (%rdi)
    movq %dr1, %rax
    movq %rax, 8(%rdi)
    movq %dr2, %rax
    movq %rax, 16(%rdi)
    ret

/* LAPIC timer: count, then end of interrupt by x2APIC or, where there is none, by MMIO. */
    .globl tiny_timer_isr
tiny_timer_isr:
    incq tiny_timer_count
    cmpb $0, tiny_x2apic
    je 1f
    pushq %rax
    pushq %rcx
    pushq %rdx
    xorl %eax, %eax
    xorl %edx, %edx
    movl $0x80b, %ecx
    wrmsr
    popq %rdx
    popq %rcx
    popq %rax
    iretq
1:  pushq %rax
    movl $0xfee000b0, %eax
    movl $0, (%rax)
    popq %rax
    iretq

    .data
    .balign 8
    .globl tiny_gdt
tiny_gdt:
    .quad 0
    .quad 0x00af9b000000ffff /* 0x08 kernel code */
    .quad 0x00cf93000000ffff /* 0x10 kernel data */
    .quad 0x00cf9b000000ffff /* 0x18 kernel code, 32 bits: processors on their way up */
    .quad 0
    .quad 0x00cff3000000ffff /* 0x2b user data */
    .quad 0x00affb000000ffff /* 0x33 user code */
    .quad 0
    .quad 0x0000890000002068, 0 /* 0x40 TSS of the first processor */
    .zero 16 * 15 /* TSSs of the others, see smp.c */
tiny_gdt_end:
    .globl tiny_gdt_size
    .set tiny_gdt_size, tiny_gdt_end - tiny_gdt
    .balign 8
    .word 0, 0, 0
tiny_gdt_desc:
    .word tiny_gdt_end - tiny_gdt - 1
    .quad tiny_gdt
    .balign 8
    .word 0, 0, 0
tiny_idt_desc:
    .word 256 * 16 - 1
    .quad tiny_idt
    .balign 8
    .long 0
tiny_tss:
    .long 0
    .quad tiny_ring0_stack_top
    .zero 0x66 - 12
    .word 0x68 /* the port bitmap follows at once: all ports allowed */
    .zero 8192
    .byte 0xff

/*
 * Page tables. The first GiB is mapped here: enough to start. map() in tiny.c adds the rest.
 * All entries are born with the accessed (and dirty) bits set, so that the processor never writes
 * to them.
 */
    .balign 4096
    .globl tiny_pdpt
tiny_pml4:
    .quad tiny_pdpt + 0x27
    .zero 4096 - 8
tiny_pdpt:
    .quad tiny_pd0 + 0x27
    .zero 4096 - 8
tiny_pd0:
    .set address, 0
    .rept 512
    .quad address + 0xe7
    .set address, address + 0x200000
    .endr

    .bss
    .globl tiny_start_info, tiny_idt, tiny_timer_count, tiny_x2apic
    .balign 4096
tiny_idt:
    .zero 4096
    .zero 1024
tiny_boot_stack_top:
    .zero 4096
tiny_ring0_stack_top:
    .zero 4096
tiny_fault_stack_top:
    .zero 32768
tiny_stack_top:
tiny_timer_count:
    .quad 0
tiny_start_info:
    .long 0
tiny_x2apic:
    .byte 0

    .section .note.GNU-stack, "", @progbits
