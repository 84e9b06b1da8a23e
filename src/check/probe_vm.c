#include "check/probe_vm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

/* Where things are in the guest's first MiB. */
enum {
    PML4 = 0x1000,
    PDPT = 0x2000,
    PD = 0x3000,
    GDT = 0x4000,
    IDT = 0x5000,
    TSS = 0x6000,
    STACK0 = 0x8000,
    STACK3 = 0x9000,
    CODE = 0x10000,
    HANDLER = 0x20000
};
enum { CS0 = 0x08, SS0 = 0x10, SS3 = 0x2b, CS3 = 0x33, TR = 0x38 };

static int fail(struct probe_vm *vm, const char *what)
{
    int code = errno;
    (void)snprintf(vm->why, sizeof(vm->why), "%s: %s", what, strerror(code));
    return -code;
}

static void put_u64(struct probe_vm *vm, uint64_t gpa, uint64_t value)
{
    memcpy(vm->ram + gpa, &value, sizeof(value));
}

static void make_tables(struct probe_vm *vm)
{
    put_u64(vm, PML4, PDPT | 7); /* present, writable, user */
    put_u64(vm, PDPT, PD | 7);
    for (uint64_t i = 0; i < 512; i++)
        put_u64(vm, PD + 8 * i,
                (i << 21) | 0xe7); /* and large, accessed, dirty: walks write nothing */
    put_u64(vm, GDT + CS0, 0x00af9b000000ffff);
    put_u64(vm, GDT + SS0, 0x00cf93000000ffff);
    put_u64(vm, GDT + (SS3 & ~7), 0x00cff3000000ffff);
    put_u64(vm, GDT + (CS3 & ~7), 0x00affb000000ffff);
    put_u64(vm, GDT + TR, 0x00008b0000000067 | ((uint64_t)TSS << 16));
    put_u64(vm, TSS + 4, STACK0);
    put_u64(vm, IDT + PROBE_VECTOR * 16,
            (HANDLER & 0xffff) | ((uint64_t)CS0 << 16) | UINT64_C(0x8e00) << 32 |
                (uint64_t)(HANDLER >> 16) << 48);
}

int probe_vm_open(struct probe_vm *vm)
{
    *vm = (struct probe_vm){ .kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), .vm = -1, .vcpu = -1 };
    if (vm->kvm < 0)
        return fail(vm, "/dev/kvm");
    vm->vm = ioctl(vm->kvm, KVM_CREATE_VM, 0ul);
    if (vm->vm < 0)
        return fail(vm, "KVM_CREATE_VM");
    int memfd = memfd_create("probe", MFD_CLOEXEC);
    if (memfd < 0 || ftruncate(memfd, (off_t)PROBE_RAM_BYTES) < 0)
        return fail(vm, "memfd");
    void *ram = mmap(NULL, PROBE_RAM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
    if (ram == MAP_FAILED)
        return fail(vm, "mmap");
    vm->ram = ram;
    vm->slot = (struct kvm_userspace_memory_region){ .memory_size = PROBE_RAM_BYTES,
                                                     .userspace_addr = (uintptr_t)ram };
    if (ioctl(vm->vm, KVM_SET_USER_MEMORY_REGION, &vm->slot) < 0)
        return fail(vm, "KVM_SET_USER_MEMORY_REGION");
    (void)ioctl(vm->vm, KVM_SET_TSS_ADDR,
                0xfffbd000ul); /* Intel without unrestricted guests only */
    make_tables(vm);
    return 0;
}

int probe_vm_irqchip(struct probe_vm *vm)
{
    if (ioctl(vm->vm, KVM_CREATE_IRQCHIP, 0ul) < 0)
        return fail(vm, "KVM_CREATE_IRQCHIP");
    struct kvm_irqchip chip = { .chip_id = KVM_IRQCHIP_PIC_MASTER };
    if (ioctl(vm->vm, KVM_GET_IRQCHIP, &chip) < 0)
        return fail(vm, "KVM_GET_IRQCHIP");
    chip.chip.pic.irq_base = 0x20;
    chip.chip.pic.imr = 0;
    chip.chip.pic.init_state = 0;
    if (ioctl(vm->vm, KVM_SET_IRQCHIP, &chip) < 0)
        return fail(vm, "KVM_SET_IRQCHIP");
    return 0;
}

static int set_cpuid(struct probe_vm *vm)
{
    enum { MOST = 256 };
    struct kvm_cpuid2 *cpuid = calloc(1, sizeof(*cpuid) + MOST * sizeof(cpuid->entries[0]));
    if (!cpuid)
        return fail(vm, "memory");
    cpuid->nent = MOST;
    int rc = 0;
    if (ioctl(vm->kvm, KVM_GET_SUPPORTED_CPUID, cpuid) < 0)
        rc = fail(vm, "KVM_GET_SUPPORTED_CPUID");
    else if (ioctl(vm->vcpu, KVM_SET_CPUID2, cpuid) < 0)
        rc = fail(vm, "KVM_SET_CPUID2");
    free(cpuid);
    return rc;
}

int probe_vm_vcpu(struct probe_vm *vm, unsigned ring)
{
    vm->vcpu = ioctl(vm->vm, KVM_CREATE_VCPU, 0ul);
    if (vm->vcpu < 0)
        return fail(vm, "KVM_CREATE_VCPU");
    int bytes = ioctl(vm->kvm, KVM_GET_VCPU_MMAP_SIZE, 0ul);
    void *run = bytes < 0
                    ? MAP_FAILED
                    : mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vm->vcpu, 0);
    if (run == MAP_FAILED)
        return fail(vm, "mapping the vCPU");
    vm->run = run;
    int rc = set_cpuid(vm);
    if (rc)
        return rc;

    struct kvm_sregs sregs;
    if (ioctl(vm->vcpu, KVM_GET_SREGS, &sregs) < 0)
        return fail(vm, "KVM_GET_SREGS");
    uint8_t dpl = ring ? 3 : 0;
    struct kvm_segment code = { .limit = UINT32_MAX,
                                .selector = ring ? CS3 : CS0,
                                .type = 11,
                                .present = 1,
                                .dpl = dpl,
                                .s = 1,
                                .l = 1,
                                .g = 1 };
    struct kvm_segment data = { .limit = UINT32_MAX,
                                .selector = ring ? SS3 : SS0,
                                .type = 3,
                                .present = 1,
                                .dpl = dpl,
                                .db = 1,
                                .s = 1,
                                .g = 1 };
    sregs.cs = code;
    sregs.ss = sregs.ds = sregs.es = sregs.fs = sregs.gs = data;
    sregs.tr = (struct kvm_segment){
        .base = TSS, .limit = 0x67, .selector = TR, .type = 11, .present = 1
    };
    sregs.gdt = (struct kvm_dtable){ .base = GDT, .limit = TR + 15 };
    sregs.idt = (struct kvm_dtable){ .base = IDT, .limit = 0xfff };
    sregs.cr0 = 0x80000033; /* paging, protection, x87 */
    sregs.cr3 = PML4;
    sregs.cr4 = 0x620;  /* PAE, SSE */
    sregs.efer = 0x500; /* long mode, enabled and active */
    if (ioctl(vm->vcpu, KVM_SET_SREGS, &sregs) < 0)
        return fail(vm, "KVM_SET_SREGS");
    return 0;
}

int probe_vm_start(struct probe_vm *vm, const void *code, const void *code_end, uint64_t rsi,
                   uint64_t rcx, uint64_t rdx)
{
    /* An access that ended the last run may still be pending; a run that exits at once completes it. */
    vm->run->immediate_exit = 1;
    (void)ioctl(vm->vcpu, KVM_RUN, 0ul);
    vm->run->immediate_exit = 0;
    memcpy(vm->ram + CODE, code, (size_t)((const uint8_t *)code_end - (const uint8_t *)code));
    /* IOPL 3: a port write of ring 3 comes to us and not to a fault handler. */
    struct kvm_regs regs = {
        .rip = CODE, .rsp = STACK3, .rflags = 0x3002, .rsi = rsi, .rcx = rcx, .rdx = rdx
    };
    return ioctl(vm->vcpu, KVM_SET_REGS, &regs) < 0 ? fail(vm, "KVM_SET_REGS") : 0;
}

void probe_vm_handler(struct probe_vm *vm, const void *code, const void *code_end)
{
    memcpy(vm->ram + HANDLER, code, (size_t)((const uint8_t *)code_end - (const uint8_t *)code));
}

int probe_vm_run(struct probe_vm *vm)
{
    if (ioctl(vm->vcpu, KVM_RUN, 0ul) < 0)
        return fail(vm, "KVM_RUN");
    return (int)vm->run->exit_reason;
}

int probe_vm_finish(struct probe_vm *vm, uint32_t *ret)
{
    int reason = probe_vm_run(vm);
    if (reason < 0)
        return reason;
    if (reason == KVM_EXIT_IO && vm->run->io.direction == KVM_EXIT_IO_OUT &&
        vm->run->io.port == PROBE_DONE_PORT) {
        memcpy(ret, (const uint8_t *)vm->run + vm->run->io.data_offset, sizeof(*ret));
        return 0;
    }
    if (reason == KVM_EXIT_INTERNAL_ERROR)
        (void)snprintf(vm->why, sizeof(vm->why), "KVM internal error %u%s",
                       vm->run->internal.suberror,
                       vm->run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION
                           ? ", emulation failure"
                           : "");
    else
        (void)snprintf(vm->why, sizeof(vm->why), "the guest ended with KVM exit %d", reason);
    return -EPROTO;
}
