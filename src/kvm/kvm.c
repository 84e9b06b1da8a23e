/*
 * The seam over /dev/kvm: creating a VM, its slots, interrupts and vCPUs, and running them. Saving
 * and loading state is in kvm_state.c. The interface is Documentation/virt/kvm/api.rst of Linux.
 *
 * Kicking a vCPU needs two things: immediate_exit, so that a KVM_RUN that has not begun yet returns at
 * once, and a signal, so that one that has begun is left. The signal's handler does nothing; it is
 * there to make the ioctl return EINTR. immediate_exit stays set until unkick, so no kick is lost
 * between two runs; `running` only spares the signal to threads that are not in KVM_RUN.
 */
#include "base/fd.h"
#include "kvm/kvm_impl.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#define KICK_SIGNAL SIGUSR1

static int vm_ioctl(struct hv *hv, unsigned long request, const void *arg)
{
    return ioctl(kvm_vm_of(hv)->fd, request, arg) < 0 ? -errno : 0;
}

static void kvm_close(struct hv *hv)
{
    struct kvm_vm *vm = kvm_vm_of(hv);
    fd_close(&vm->fd);
    free(vm->msrs);
    free(vm);
}

static int kvm_slot_set(struct hv *hv, unsigned slot, gpa_t gpa, void *host, uint64_t bytes,
                        bool log_dirty)
{
    struct kvm_userspace_memory_region region = {
        .slot = slot,
        .flags = log_dirty ? KVM_MEM_LOG_DIRTY_PAGES : 0,
        .guest_phys_addr = gpa.raw,
        .memory_size = bytes,
        .userspace_addr = (uintptr_t)host,
    };
    return vm_ioctl(hv, KVM_SET_USER_MEMORY_REGION, &region);
}

static int kvm_dirty_fetch(struct hv *hv, unsigned slot, uint64_t *bitmap)
{
    struct kvm_dirty_log log = { .slot = slot, .dirty_bitmap = bitmap };
    return vm_ioctl(hv, KVM_GET_DIRTY_LOG, &log);
}

static int kvm_dirty_clear(struct hv *hv, unsigned slot, uint64_t first, uint32_t count,
                           const uint64_t *bitmap)
{
    struct kvm_clear_dirty_log log = { .slot = slot, .num_pages = count, .first_page = first };
    memcpy(&log.dirty_bitmap, &bitmap, sizeof(bitmap)); /* the kernel only reads it */
    return vm_ioctl(hv, KVM_CLEAR_DIRTY_LOG, &log);
}

static int kvm_irqchip(struct hv *hv)
{
    /* Both addresses lie in the hole below 4 GiB, above the APICs' windows, and matter on Intel only. */
    uint64_t identity_map = 0xfffbc000;
    struct kvm_vm *vm = kvm_vm_of(hv);
    if (ioctl(vm->fd, KVM_SET_TSS_ADDR, 0xfffbd000ul) < 0 && errno != EINVAL)
        return -errno;
    if (ioctl(vm->fd, KVM_SET_IDENTITY_MAP_ADDR, &identity_map) < 0 && errno != EINVAL)
        return -errno;
    return vm_ioctl(hv, KVM_CREATE_IRQCHIP, NULL);
}

static int kvm_irqfd(struct hv *hv, int fd, uint32_t gsi)
{
    struct kvm_irqfd irqfd = { .fd = (uint32_t)fd, .gsi = gsi };
    return vm_ioctl(hv, KVM_IRQFD, &irqfd);
}

static int kvm_ioeventfd(struct hv *hv, int fd, gpa_t gpa, unsigned len, uint64_t value)
{
    struct kvm_ioeventfd io = { .datamatch = value,
                                .addr = gpa.raw,
                                .len = len,
                                .fd = fd,
                                .flags = KVM_IOEVENTFD_FLAG_DATAMATCH };
    return vm_ioctl(hv, KVM_IOEVENTFD, &io);
}

static int kvm_irq_pulse(struct hv *hv, uint32_t gsi)
{
    struct kvm_irq_level line = { .irq = gsi, .level = 1 };
    int rc = vm_ioctl(hv, KVM_IRQ_LINE, &line);
    line.level = 0;
    return rc ? rc : vm_ioctl(hv, KVM_IRQ_LINE, &line);
}

/* ---------------------------------------------------------------------------------------- vCPUs */

static void ignore_signal(int signal)
{
    (void)signal;
}

static int set_cpuid(struct kvm_vcpu *vcpu, const struct hv_cpuid *cpuid)
{
    uint32_t n = cpuid->leaf_count;
    vcpu->cpuid = calloc(1, sizeof(*vcpu->cpuid) + n * sizeof(vcpu->cpuid->entries[0]));
    if (!vcpu->cpuid)
        return -ENOMEM;
    vcpu->cpuid->nent = n;
    for (uint32_t i = 0; i < n; i++) {
        const struct hv_cpuid_leaf *leaf = &cpuid->leaf[i];
        vcpu->cpuid->entries[i] = (struct kvm_cpuid_entry2){
            .function = leaf->leaf,
            .index = leaf->subleaf,
            .flags = leaf->has_subleaf ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
            .eax = leaf->eax,
            .ebx = leaf->ebx,
            .ecx = leaf->ecx,
            .edx = leaf->edx,
        };
    }
    return ioctl(vcpu->fd, KVM_SET_CPUID2, vcpu->cpuid) < 0 ? -errno : 0;
}

/* Lets the guest's TSC run at `khz`. Rates within 250 ppm count as the same (the kernel's own rule,
 * arch/x86/kvm/x86.c tsc_tolerance_ppm); others need a CPU that can scale. */
static int set_tsc_khz(struct kvm_vm *vm, struct kvm_vcpu *vcpu, uint32_t khz)
{
    int host = ioctl(vcpu->fd, KVM_GET_TSC_KHZ, 0);
    if (khz == 0 || host <= 0)
        return 0;
    uint32_t diff = khz > (uint32_t)host ? khz - (uint32_t)host : (uint32_t)host - khz;
    if ((uint64_t)diff * 1000000 <= (uint64_t)khz * 250)
        return 0;
    if (!vm->tsc_control)
        return -ENOTSUP;
    return ioctl(vcpu->fd, KVM_SET_TSC_KHZ, (unsigned long)khz) < 0 ? -errno : 0;
}

static void kvm_vcpu_close(struct hv_vcpu *base)
{
    struct kvm_vcpu *vcpu = kvm_vcpu_of(base);
    if (vcpu->run)
        (void)munmap(vcpu->run, (size_t)kvm_vm_of(base->hv)->run_bytes);
    fd_close(&vcpu->stats_fd);
    fd_close(&vcpu->fd);
    free(vcpu->cpuid);
    free(vcpu);
}

static int kvm_vcpu_open(struct hv *hv, unsigned id, const struct hv_cpuid *cpuid,
                         struct hv_vcpu **ret)
{
    struct kvm_vm *vm = kvm_vm_of(hv);
    struct kvm_vcpu *vcpu = calloc(1, sizeof(*vcpu));
    if (!vcpu)
        return -ENOMEM;
    vcpu->vcpu = (struct hv_vcpu){ .hv = hv, .id = id };
    vcpu->stats_fd = -1;
    vcpu->fd = ioctl(vm->fd, KVM_CREATE_VCPU, (unsigned long)id);
    int rc = vcpu->fd < 0 ? -errno : 0;
    if (!rc) {
        void *run =
            mmap(NULL, (size_t)vm->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
        rc = run == MAP_FAILED ? -errno : 0;
        vcpu->run = rc ? NULL : run;
    }
    if (!rc)
        rc = set_cpuid(vcpu, cpuid);
    if (!rc)
        rc = set_tsc_khz(vm, vcpu, cpuid->tsc_khz);
    if (rc) {
        kvm_vcpu_close(&vcpu->vcpu);
        return rc;
    }
    kvm_stats_open(vcpu);
    *ret = &vcpu->vcpu;
    return 0;
}

static uint32_t kvm_tsc_khz(struct hv_vcpu *base)
{
    int khz = ioctl(kvm_vcpu_of(base)->fd, KVM_GET_TSC_KHZ, 0);
    return khz > 0 ? (uint32_t)khz : 0;
}

static void describe_failure(struct kvm_run *run, struct hv_exit *ret)
{
    ret->kind = HV_EXIT_FAILED;
    if (run->exit_reason == KVM_EXIT_INTERNAL_ERROR) {
        const char *what =
            run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION
                ? " (an instruction that this KVM emulates and cannot: see `godwit check`)"
                : "";
        (void)snprintf(ret->why, sizeof(ret->why), "KVM internal error %u%s",
                       run->internal.suberror, what);
    } else if (run->exit_reason == KVM_EXIT_FAIL_ENTRY) {
        (void)snprintf(ret->why, sizeof(ret->why),
                       "the CPU refused to enter the guest, reason 0x%llx",
                       (unsigned long long)run->fail_entry.hardware_entry_failure_reason);
    } else {
        (void)snprintf(ret->why, sizeof(ret->why), "unexpected KVM exit %u", run->exit_reason);
    }
}

static int kvm_vcpu_run(struct hv_vcpu *base, struct hv_exit *ret)
{
    struct kvm_vcpu *vcpu = kvm_vcpu_of(base);
    struct kvm_run *run = vcpu->run;

    vcpu->thread = pthread_self();
    atomic_store(&vcpu->running, true);
    int rc = ioctl(vcpu->fd, KVM_RUN, 0) < 0 ? -errno : 0;
    atomic_store(&vcpu->running, false);

    *ret = (struct hv_exit){ .kind = HV_EXIT_NONE };
    if (rc == -EINTR || rc == -EAGAIN)
        return 0;
    if (rc == -EFAULT)
        return -EFAULT; /* guest memory the kernel could not reach */
    if (rc)
        return rc;

    switch (run->exit_reason) {
    case KVM_EXIT_IO:
        ret->kind = run->io.direction == KVM_EXIT_IO_IN ? HV_EXIT_PIO_IN : HV_EXIT_PIO_OUT;
        ret->address = run->io.port;
        ret->size = run->io.size;
        ret->count = run->io.count;
        ret->data = (uint8_t *)run + run->io.data_offset;
        break;
    case KVM_EXIT_MMIO:
        ret->kind = run->mmio.is_write ? HV_EXIT_MMIO_WRITE : HV_EXIT_MMIO_READ;
        ret->address = run->mmio.phys_addr;
        ret->size = run->mmio.len;
        ret->count = 1;
        ret->data = run->mmio.data;
        break;
    case KVM_EXIT_INTR:
        break;
    case KVM_EXIT_HLT:
        ret->kind = HV_EXIT_HALT;
        break;
    case KVM_EXIT_SHUTDOWN:
        ret->kind = HV_EXIT_SHUTDOWN;
        break;
    default:
        describe_failure(run, ret);
    }
    return 0;
}

static void kvm_vcpu_kick(struct hv_vcpu *base)
{
    struct kvm_vcpu *vcpu = kvm_vcpu_of(base);
    __atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
    if (atomic_load(&vcpu->running))
        (void)pthread_kill(vcpu->thread, KICK_SIGNAL);
}

static void kvm_vcpu_unkick(struct hv_vcpu *base)
{
    __atomic_store_n(&kvm_vcpu_of(base)->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
}

static void kvm_vcpu_stood_still(struct hv_vcpu *base)
{
    (void)ioctl(kvm_vcpu_of(base)->fd, KVM_KVMCLOCK_CTRL,
                0); /* fails unless the guest uses kvmclock */
}

static const struct hv_ops kvm_ops = {
    .name = "kvm",
    .close = kvm_close,
    .slot_set = kvm_slot_set,
    .dirty_fetch = kvm_dirty_fetch,
    .dirty_clear = kvm_dirty_clear,
    .irqchip = kvm_irqchip,
    .irqfd = kvm_irqfd,
    .ioeventfd = kvm_ioeventfd,
    .irq_pulse = kvm_irq_pulse,
    .vm_save = kvm_vm_save,
    .vm_load = kvm_vm_load,
    .vcpu_open = kvm_vcpu_open,
    .vcpu_close = kvm_vcpu_close,
    .tsc_khz = kvm_tsc_khz,
    .vcpu_boot = kvm_vcpu_boot,
    .vcpu_run = kvm_vcpu_run,
    .vcpu_kick = kvm_vcpu_kick,
    .vcpu_unkick = kvm_vcpu_unkick,
    .vcpu_stood_still = kvm_vcpu_stood_still,
    .vcpu_faults = kvm_vcpu_faults,
    .vcpu_save = kvm_vcpu_save,
    .vcpu_load = kvm_vcpu_load,
};

/* -------------------------------------------------------------------------------------- opening */

static int read_msr_list(struct kvm_vm *vm)
{
    struct kvm_msr_list probe = { .nmsrs = 0 };
    if (ioctl(vm->kvm_fd, KVM_GET_MSR_INDEX_LIST, &probe) < 0 && errno != E2BIG)
        return -errno;
    vm->msrs = calloc(1, sizeof(*vm->msrs) + probe.nmsrs * sizeof(vm->msrs->indices[0]));
    if (!vm->msrs)
        return -ENOMEM;
    vm->msrs->nmsrs = probe.nmsrs;
    return ioctl(vm->kvm_fd, KVM_GET_MSR_INDEX_LIST, vm->msrs) < 0 ? -errno : 0;
}

static int check_kernel(struct kvm_vm *vm, struct err *err)
{
    static const struct {
        int cap;
        const char *name;
    } needed[] = {
        { KVM_CAP_USER_MEMORY, "user memory" },
        { KVM_CAP_IRQCHIP, "in-kernel interrupt controllers" },
        { KVM_CAP_IRQFD, "irqfd" },
        { KVM_CAP_IOEVENTFD, "ioeventfd" },
        { KVM_CAP_IMMEDIATE_EXIT, "immediate exit" },
        { KVM_CAP_ADJUST_CLOCK, "guest clock" },
        { KVM_CAP_VCPU_EVENTS, "vCPU events" },
        { KVM_CAP_XSAVE, "XSAVE state" },
    };
    int version = ioctl(vm->kvm_fd, KVM_GET_API_VERSION, 0);
    if (version != KVM_API_VERSION)
        return err_set(err, ERR_HOST, ENOTSUP, "/dev/kvm speaks version %d, need %d", version,
                       KVM_API_VERSION);
    for (size_t i = 0; i < ARRAY_LEN(needed); i++)
        if (ioctl(vm->kvm_fd, KVM_CHECK_EXTENSION, needed[i].cap) <= 0)
            return err_set(err, ERR_HOST, ENOTSUP, "this kernel's KVM has no %s", needed[i].name);
    return 0;
}

int hv_kvm_open(int kvm_fd, struct hv **ret, struct err *err)
{
    struct kvm_vm *vm = calloc(1, sizeof(*vm));
    if (!vm)
        return err_errno(err, ERR_HOST, ENOMEM, "cannot create a VM");
    *vm = (struct kvm_vm){ .hv = { .ops = &kvm_ops }, .kvm_fd = kvm_fd, .fd = -1 };

    int rc = check_kernel(vm, err);
    if (rc) {
        kvm_close(&vm->hv);
        return rc;
    }
    vm->run_bytes = ioctl(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (vm->run_bytes <= 0) {
        rc = err_errno(err, ERR_HOST, errno, "KVM does not say how large a vCPU's area is");
        kvm_close(&vm->hv);
        return rc;
    }
    vm->clock_flags = (uint32_t)ioctl(kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_ADJUST_CLOCK);
    vm->tsc_control = ioctl(kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_TSC_CONTROL) > 0;
    vm->xcrs = ioctl(kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_XCRS) > 0; /* of CPUs with XSAVE */
    vm->fd = ioctl(kvm_fd, KVM_CREATE_VM, 0);
    if (vm->fd < 0) {
        rc = err_errno(err, ERR_HOST, errno, "cannot create a VM");
        kvm_close(&vm->hv);
        return rc;
    }
    vm->xsave_bytes =
        MAX(ioctl(vm->fd, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2), (int)sizeof(struct kvm_xsave));

    /* Manual clear: the log is cleared chunk by chunk just before the chunk is sent, so the guest
     * pays its write faults spread out; initially set: nothing is write-protected at the start. */
    struct kvm_enable_cap cap = { .cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
                                  .args = { KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE |
                                            KVM_DIRTY_LOG_INITIALLY_SET } };
    if (ioctl(vm->fd, KVM_ENABLE_CAP, &cap) < 0) {
        rc = err_errno(err, ERR_HOST, errno,
                       "this kernel's KVM has no manual dirty log (need Linux 5.7)");
        kvm_close(&vm->hv);
        return rc;
    }
    rc = read_msr_list(vm);
    if (rc) {
        rc = err_errno(err, ERR_HOST, -rc, "cannot list the MSRs to save");
        kvm_close(&vm->hv);
        return rc;
    }
    struct sigaction action = { .sa_handler = ignore_signal };
    (void)sigaction(KICK_SIGNAL, &action, NULL); /* no SA_RESTART: the point is to interrupt */
    *ret = &vm->hv;
    return 0;
}

int hv_kvm_cpuid(int kvm_fd, struct hv_cpuid *ret, struct err *err)
{
    CLEANUP_FREE struct kvm_cpuid2 *list =
        calloc(1, sizeof(*list) + HV_CPUID_MAX * sizeof(list->entries[0]));
    if (!list)
        return err_errno(err, ERR_HOST, ENOMEM, "cannot read the CPU's features");
    list->nent = HV_CPUID_MAX;
    if (ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, list) < 0)
        return err_errno(err, ERR_HOST, errno, "cannot read the CPU's features");
    *ret = (struct hv_cpuid){ .leaf_count = list->nent };
    for (uint32_t i = 0; i < list->nent; i++) {
        const struct kvm_cpuid_entry2 *e = &list->entries[i];
        ret->leaf[i] =
            (struct hv_cpuid_leaf){ .leaf = e->function,
                                    .subleaf = e->index,
                                    .has_subleaf = !!(e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX),
                                    .eax = e->eax,
                                    .ebx = e->ebx,
                                    .ecx = e->ecx,
                                    .edx = e->edx };
    }
    return 0;
}
