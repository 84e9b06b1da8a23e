/*
 * A hypervisor without virtualisation: its vCPUs are loops in this process that write guest memory by
 * a rule, so that machines can be paused, saved, moved and verified where there is no /dev/kvm.
 *
 * The rule: vCPU i at step k writes the number k into hot page hv_fake_page(i, k), at the place of
 * that vCPU within the page. Only the step count is state (gpr[0]), so after any number of moves the
 * memory must be what replaying the steps gives, which hv_fake_verify() does: a page lost, stale or
 * written after the pause shows up. The dirty log follows KVM's manual-clear rules (kvm/hv.h).
 *
 * Interrupts and I/O do nothing.
 */
#include "kvm/fake.h"
#include "base/clock.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define STEPS_PER_BURST 64
#define BURST_PAUSE_NS (200 * 1000)
#define SLOTS 2

struct fake_slot {
    uint8_t *host;
    uint64_t pages;
    bool logging;
    uint64_t *dirty;
};

struct fake_vm {
    struct hv hv;
    struct fake_slot slot[SLOTS];
    pthread_mutex_t lock; /* of the dirty bitmaps and the slot table */
};

struct fake_vcpu {
    struct hv_vcpu vcpu;
    struct hv_vcpu_state state;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool kicked;
    _Atomic(uint64_t) writes, stood_still;
};

static struct fake_vm *vm_of(struct hv *hv)
{
    return (struct fake_vm *)hv;
}

static struct fake_vcpu *vcpu_of(struct hv_vcpu *vcpu)
{
    return (struct fake_vcpu *)vcpu;
}

uint64_t hv_fake_page(unsigned vcpu, uint64_t step, uint64_t pages)
{
    /* splitmix64 (Steele, Lea, Flood, OOPSLA 2014) */
    uint64_t z = step * UINT64_C(0x9e3779b97f4a7c15) + vcpu;
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    z ^= z >> 31;
    /* Seven writes in eight go to the first 256 pages: a writable working set. */
    return z % 8 ? z % MIN(pages, UINT64_C(256)) : z % pages;
}

/* A guest's store: it may race with whoever copies the page, as a real one's does, and that is no mistake. */
__attribute__((no_sanitize("thread"))) static void guest_store(uint8_t *at, uint64_t value)
{
    *(volatile uint64_t *)(void *)at = value;
}

static void fake_write(struct fake_vm *vm, unsigned id, uint64_t step)
{
    struct fake_slot *slot = &vm->slot[0];
    uint64_t page = hv_fake_page(id, step, slot->pages);
    guest_store(slot->host + page * PAGE_BYTES + id * sizeof(step), step);
    (void)pthread_mutex_lock(&vm->lock);
    if (slot->logging)
        slot->dirty[page / 64] |= UINT64_C(1) << (page % 64);
    (void)pthread_mutex_unlock(&vm->lock);
}

bool hv_fake_verify(const uint8_t *host, uint64_t pages, unsigned vcpu, uint64_t steps,
                    uint64_t *ret_page)
{
    CLEANUP_FREE uint64_t *want = calloc(pages, sizeof(*want));
    ASSERT(want);
    for (uint64_t step = 1; step <= steps; step++)
        want[hv_fake_page(vcpu, step, pages)] = step;
    for (uint64_t page = 0; page < pages; page++) {
        uint64_t have;
        memcpy(&have, host + page * PAGE_BYTES + vcpu * sizeof(have), sizeof(have));
        if (have != want[page]) {
            *ret_page = page;
            return false;
        }
    }
    return true;
}

/* ----------------------------------------------------------------------------------------- slots */

static void fake_close(struct hv *hv)
{
    struct fake_vm *vm = vm_of(hv);
    for (unsigned i = 0; i < SLOTS; i++)
        free(vm->slot[i].dirty);
    (void)pthread_mutex_destroy(&vm->lock);
    free(vm);
}

static int fake_slot_set(struct hv *hv, unsigned n, gpa_t gpa, void *host, uint64_t bytes,
                         bool log_dirty)
{
    (void)gpa;
    struct fake_vm *vm = vm_of(hv);
    if (n >= SLOTS)
        return -EINVAL;
    struct fake_slot *slot = &vm->slot[n];
    uint64_t pages = bytes / PAGE_BYTES, words = (pages + 63) / 64;
    uint64_t *dirty = log_dirty && !slot->logging ? malloc(words * sizeof(*dirty)) : NULL;
    if (log_dirty && !slot->logging && !dirty)
        return -ENOMEM;
    (void)pthread_mutex_lock(&vm->lock);
    if (slot->host != host ||
        slot->pages != pages) { /* vCPUs that run read these without the lock */
        slot->host = host;
        slot->pages = pages;
    }
    if (dirty) {
        memset(dirty, 0xff, words * sizeof(*dirty));
        free(slot->dirty);
        slot->dirty = dirty;
    }
    slot->logging = log_dirty;
    (void)pthread_mutex_unlock(&vm->lock);
    return 0;
}

static int fake_dirty_fetch(struct hv *hv, unsigned n, uint64_t *bitmap)
{
    struct fake_vm *vm = vm_of(hv);
    if (n >= SLOTS || !vm->slot[n].logging)
        return -ENOENT;
    (void)pthread_mutex_lock(&vm->lock);
    memcpy(bitmap, vm->slot[n].dirty, (vm->slot[n].pages + 63) / 64 * sizeof(*bitmap));
    (void)pthread_mutex_unlock(&vm->lock);
    return 0;
}

static int fake_dirty_clear(struct hv *hv, unsigned n, uint64_t first, uint32_t count,
                            const uint64_t *bitmap)
{
    struct fake_vm *vm = vm_of(hv);
    if (n >= SLOTS || !vm->slot[n].logging)
        return -ENOENT;
    if (first % 64 || first + count > vm->slot[n].pages)
        return -EINVAL;
    (void)pthread_mutex_lock(&vm->lock);
    for (uint32_t i = 0; i < (count + 63) / 64; i++)
        vm->slot[n].dirty[first / 64 + i] &= ~bitmap[i];
    (void)pthread_mutex_unlock(&vm->lock);
    return 0;
}

/* ------------------------------------------------------------------------- what does nothing here */

static int fake_irqchip(struct hv *hv)
{
    (void)hv;
    return 0;
}

static int fake_irqfd(struct hv *hv, int fd, uint32_t gsi)
{
    (void)hv, (void)fd, (void)gsi;
    return 0;
}

static int fake_ioeventfd(struct hv *hv, int fd, gpa_t gpa, unsigned len, uint64_t value)
{
    (void)hv, (void)fd, (void)gpa, (void)len, (void)value;
    return 0;
}

static int fake_irq_pulse(struct hv *hv, uint32_t gsi)
{
    (void)hv, (void)gsi;
    return 0;
}

static int fake_vm_save(struct hv *hv, struct hv_vm_state *state)
{
    (void)hv;
    *state = (struct hv_vm_state){ .pic_count = 2, .clock_wall_ns = clock_wall_ns() };
    return 0;
}

static int fake_vm_load(struct hv *hv, const struct hv_vm_state *state)
{
    (void)hv;
    return state->pic_count == 2 ? 0 : -EBADMSG;
}

/* ----------------------------------------------------------------------------------------- vCPUs */

static int fake_vcpu_open(struct hv *hv, unsigned id, const struct hv_cpuid *cpuid,
                          struct hv_vcpu **ret)
{
    (void)cpuid;
    struct fake_vcpu *vcpu = calloc(1, sizeof(*vcpu));
    if (!vcpu)
        return -ENOMEM;
    vcpu->vcpu = (struct hv_vcpu){ .hv = hv, .id = id };
    vcpu->state.segment_count = 8;
    pthread_condattr_t monotonic;
    (void)pthread_condattr_init(&monotonic);
    (void)pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    (void)pthread_mutex_init(&vcpu->lock, NULL);
    (void)pthread_cond_init(&vcpu->wake, &monotonic);
    (void)pthread_condattr_destroy(&monotonic);
    *ret = &vcpu->vcpu;
    return 0;
}

static void fake_vcpu_close(struct hv_vcpu *base)
{
    struct fake_vcpu *vcpu = vcpu_of(base);
    (void)pthread_cond_destroy(&vcpu->wake);
    (void)pthread_mutex_destroy(&vcpu->lock);
    free(vcpu);
}

static uint32_t fake_tsc_khz(struct hv_vcpu *base)
{
    (void)base;
    return 0;
}

static int fake_vcpu_boot(struct hv_vcpu *base, const struct hv_boot *boot)
{
    (void)base, (void)boot;
    return 0;
}

static int fake_vcpu_run(struct hv_vcpu *base, struct hv_exit *ret)
{
    struct fake_vcpu *vcpu = vcpu_of(base);
    *ret = (struct hv_exit){ .kind = HV_EXIT_NONE };

    (void)pthread_mutex_lock(&vcpu->lock);
    while (!vcpu->kicked) {
        (void)pthread_mutex_unlock(&vcpu->lock);
        atomic_fetch_add_explicit(&vcpu->writes, STEPS_PER_BURST, memory_order_relaxed);
        for (int i = 0; i < STEPS_PER_BURST; i++)
            fake_write(vm_of(base->hv), base->id, ++vcpu->state.gpr[0]);
        uint64_t until = clock_now_ns() + BURST_PAUSE_NS;
        struct timespec ts = { .tv_sec = (time_t)(until / CLOCK_SECOND),
                               .tv_nsec = (long)(until % CLOCK_SECOND) };
        (void)pthread_mutex_lock(&vcpu->lock);
        if (!vcpu->kicked)
            (void)pthread_cond_timedwait(&vcpu->wake, &vcpu->lock, &ts);
    }
    (void)pthread_mutex_unlock(&vcpu->lock);
    return 0;
}

static void set_kicked(struct hv_vcpu *base, bool kicked)
{
    struct fake_vcpu *vcpu = vcpu_of(base);
    (void)pthread_mutex_lock(&vcpu->lock);
    vcpu->kicked = kicked;
    (void)pthread_cond_signal(&vcpu->wake);
    (void)pthread_mutex_unlock(&vcpu->lock);
}

static void fake_vcpu_kick(struct hv_vcpu *base)
{
    set_kicked(base, true);
}

static void fake_vcpu_unkick(struct hv_vcpu *base)
{
    set_kicked(base, false);
}

static void fake_vcpu_stood_still(struct hv_vcpu *base)
{
    (void)atomic_fetch_add_explicit(&vcpu_of(base)->stood_still, 1, memory_order_relaxed);
}

uint64_t hv_fake_stood_still(struct hv_vcpu *vcpu)
{
    return atomic_load_explicit(&vcpu_of(vcpu)->stood_still, memory_order_relaxed);
}

/* Every write counts as a fault. */
static int fake_vcpu_faults(struct hv_vcpu *base, uint64_t *ret)
{
    *ret = atomic_load_explicit(&vcpu_of(base)->writes, memory_order_relaxed);
    return 0;
}

static int fake_vcpu_save(struct hv_vcpu *base, struct hv_vcpu_state *state, struct err *err)
{
    (void)err;
    *state = vcpu_of(base)->state;
    return 0;
}

static int fake_vcpu_load(struct hv_vcpu *base, const struct hv_vcpu_state *state, struct err *err)
{
    if (state->segment_count != 8)
        return err_set(err, ERR_PEER, EBADMSG, "vCPU %u with %u segments", base->id,
                       state->segment_count);
    vcpu_of(base)->state = *state;
    return 0;
}

static const struct hv_ops fake_ops = {
    .name = "fake",
    .close = fake_close,
    .slot_set = fake_slot_set,
    .dirty_fetch = fake_dirty_fetch,
    .dirty_clear = fake_dirty_clear,
    .irqchip = fake_irqchip,
    .irqfd = fake_irqfd,
    .ioeventfd = fake_ioeventfd,
    .irq_pulse = fake_irq_pulse,
    .vm_save = fake_vm_save,
    .vm_load = fake_vm_load,
    .vcpu_open = fake_vcpu_open,
    .vcpu_close = fake_vcpu_close,
    .tsc_khz = fake_tsc_khz,
    .vcpu_boot = fake_vcpu_boot,
    .vcpu_run = fake_vcpu_run,
    .vcpu_kick = fake_vcpu_kick,
    .vcpu_unkick = fake_vcpu_unkick,
    .vcpu_stood_still = fake_vcpu_stood_still,
    .vcpu_faults = fake_vcpu_faults,
    .vcpu_save = fake_vcpu_save,
    .vcpu_load = fake_vcpu_load,
};

int hv_fake_open(struct hv **ret)
{
    struct fake_vm *vm = calloc(1, sizeof(*vm));
    if (!vm)
        return -ENOMEM;
    vm->hv.ops = &fake_ops;
    (void)pthread_mutex_init(&vm->lock, NULL);
    *ret = &vm->hv;
    return 0;
}

void hv_fake_cpuid(struct hv_cpuid *ret)
{
    /* A vendor leaf and a feature leaf, so that a comparison has something to compare. */
    *ret = (struct hv_cpuid){ .leaf_count = 2 };
    ret->leaf[0] = (struct hv_cpuid_leaf){
        .leaf = 0, .eax = 1, .ebx = 0x6b614667, .edx = 0x77646f67, .ecx = 0x20746965
    };
    ret->leaf[1] = (struct hv_cpuid_leaf){ .leaf = 1, .edx = 0x078bfbff };
}
