/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Does this machine's /dev/kvm run guest code? One virtual CPU in real mode adds two registers,
 * writes the sum to a port and halts. Exit 0 when it does; else a line says what failed.
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

static int fail(const char *what)
{
    perror(what);
    return 1;
}

int main(void)
{
    static const uint8_t code[] = {
        0xba, 0x17, 0x02, /* mov dx, 0x217 */
        0x00, 0xd8,       /* add al, bl */
        0xee,             /* out dx, al */
        0xf4,             /* hlt */
    };
    uint8_t *ram = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct kvm_userspace_memory_region slot = { .guest_phys_addr = 0x1000, .memory_size = 4096 };
    struct kvm_regs regs = { .rip = 0x1000, .rax = 40, .rbx = 2, .rflags = 2 };
    struct kvm_sregs sregs;
    struct kvm_run *run;
    int kvm, vm, vcpu, size;

    if (ram == MAP_FAILED)
        return fail("mmap");
    memcpy(ram, code, sizeof(code));
    slot.userspace_addr = (uintptr_t)ram;

    kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (kvm < 0)
        return fail("/dev/kvm");
    vm = ioctl(kvm, KVM_CREATE_VM, 0);
    if (vm < 0 || ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot) < 0)
        return fail("KVM_CREATE_VM");
    vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
    size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (vcpu < 0 || size < 0)
        return fail("KVM_CREATE_VCPU");
    run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
    if (run == MAP_FAILED || ioctl(vcpu, KVM_GET_SREGS, &sregs) < 0)
        return fail("KVM_GET_SREGS");
    sregs.cs.base = sregs.cs.selector = 0;
    if (ioctl(vcpu, KVM_SET_SREGS, &sregs) < 0 || ioctl(vcpu, KVM_SET_REGS, &regs) < 0)
        return fail("KVM_SET_REGS");

    if (ioctl(vcpu, KVM_RUN, 0) < 0)
        return fail("KVM_RUN");
    if (run->exit_reason != KVM_EXIT_IO || run->io.port != 0x217 ||
        *((uint8_t *)run + run->io.data_offset) != 42) {
        printf("the guest did not add: exit reason %u\n", run->exit_reason);
        return 1;
    }
    if (ioctl(vcpu, KVM_RUN, 0) < 0 || run->exit_reason != KVM_EXIT_HLT) {
        printf("the guest did not halt: exit reason %u\n", run->exit_reason);
        return 1;
    }
    printf("kvm runs guests\n");
    return 0;
}
