/*
 * What KVM counts for each vCPU, read through its statistics descriptor (Linux 5.14;
 * Documentation/virt/kvm/api.rst, KVM_GET_STATS_FD): a header, descriptors with names and offsets, data.
 *
 * The descriptor is taken when the vCPU is made: the ioctl waits for a KVM_RUN under way, which may be for
 * ever. Reading from it waits for nobody.
 */
#include "base/fd.h"
#include "kvm/kvm_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define DESCRIPTORS_MAX 1024
#define NAME_MAX_BYTES 256

/* Page faults that KVM resolved, on either of its paths: a first write to a page whose log was cleared is
 * one of them. */
static const char *const fault_names[KVM_FAULT_COUNTERS] = { "pf_fixed", "pf_fast" };

static int find_counters(struct kvm_vcpu *vcpu)
{
    struct kvm_stats_header head;
    if (pread(vcpu->stats_fd, &head, sizeof(head), 0) != (ssize_t)sizeof(head))
        return -EIO;
    if (head.num_desc > DESCRIPTORS_MAX || head.name_size > NAME_MAX_BYTES || head.name_size == 0)
        return -EIO;
    size_t size = sizeof(struct kvm_stats_desc) + head.name_size, all = size * head.num_desc;
    CLEANUP_FREE char *bytes = malloc(all + 1);
    if (!bytes)
        return -ENOMEM;
    if (pread(vcpu->stats_fd, bytes, all, head.desc_offset) != (ssize_t)all)
        return -EIO;
    unsigned found = 0;
    for (uint32_t i = 0; i < head.num_desc; i++) {
        struct kvm_stats_desc desc;
        const char *name = bytes + i * size + sizeof(desc);
        memcpy(&desc, bytes + i * size, sizeof(desc));
        for (unsigned k = 0; k < KVM_FAULT_COUNTERS; k++)
            if (strncmp(name, fault_names[k], head.name_size) == 0)
                vcpu->stats_at[found++ % KVM_FAULT_COUNTERS] = head.data_offset + desc.offset;
    }
    return found == KVM_FAULT_COUNTERS ? 0 : -ENOTSUP;
}

void kvm_stats_open(struct kvm_vcpu *vcpu)
{
    vcpu->stats_fd = ioctl(vcpu->fd, KVM_GET_STATS_FD, NULL);
    if (vcpu->stats_fd >= 0 && find_counters(vcpu))
        fd_close(&vcpu->stats_fd);
}

int kvm_vcpu_faults(struct hv_vcpu *base, uint64_t *ret)
{
    struct kvm_vcpu *vcpu = kvm_vcpu_of(base);
    uint64_t sum = 0;
    if (vcpu->stats_fd < 0)
        return -ENOTSUP;
    for (unsigned k = 0; k < KVM_FAULT_COUNTERS; k++) {
        uint64_t value;
        if (pread(vcpu->stats_fd, &value, sizeof(value), (off_t)vcpu->stats_at[k]) !=
            (ssize_t)sizeof(value))
            return -EIO;
        sum += value;
    }
    *ret = sum;
    return 0;
}
