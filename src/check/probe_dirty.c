/*
 * KVM's record of what a guest writes, as src/mem/dirty.c relies on it:
 *     after it is switched on, every page counts as written;
 *     fetching changes nothing; clearing a chunk forgets that chunk alone;
 *     a page written after its clearing is logged again;
 *     what the monitor writes is not logged.
 * Only pages from PROBE_DATA_GPA on are looked at: a KVM may write below, in the guest's tables.
 */
#include "check/probe.h"
#include "check/probe_vm.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#define WORDS (PROBE_RAM_PAGES / 64)
#define FIRST (PROBE_DATA_PAGE + 64) /* the guest writes pages FIRST, FIRST + STRIDE, ... */
#define STRIDE 7
#define COUNT 80

/* Writes rcx words, rdx bytes apart, from rsi on. */
GUEST_CODE(write_pages,
           "1: movq %rcx, (%rsi)\n addq %rdx, %rsi\n decq %rcx\n jnz 1b\n" GUEST_DONE "hlt");

static int fetch(struct probe_vm *vm, uint64_t bits[WORDS])
{
    struct kvm_dirty_log log = { .dirty_bitmap = bits };
    return ioctl(vm->vm, KVM_GET_DIRTY_LOG, &log);
}

static int clear(struct probe_vm *vm, uint64_t first, uint32_t pages, uint64_t *bits)
{
    struct kvm_clear_dirty_log log = { .first_page = first,
                                       .num_pages = pages,
                                       .dirty_bitmap = bits };
    return ioctl(vm->vm, KVM_CLEAR_DIRTY_LOG, &log);
}

static int guest_writes(struct probe_vm *vm)
{
    uint32_t ignored;
    int rc = probe_vm_start(vm, write_pages, write_pages_end, FIRST * PAGE_BYTES, COUNT,
                            STRIDE * PAGE_BYTES);
    return rc ? rc : probe_vm_finish(vm, &ignored);
}

static bool guest_wrote(uint64_t page)
{
    return page >= FIRST && page < FIRST + COUNT * STRIDE && (page - FIRST) % STRIDE == 0;
}

/* Whether the log names, of the guest's own pages from `from` on, exactly those it wrote. */
static bool names_what_was_written(const uint64_t bits[WORDS], uint64_t from)
{
    for (uint64_t page = PROBE_DATA_PAGE; page < PROBE_RAM_PAGES; page++)
        if ((bits[page / 64] >> (page % 64) & 1) != (page >= from && guest_wrote(page)))
            return false;
    return true;
}

static bool is_empty(const uint64_t bits[WORDS])
{
    for (uint64_t w = PROBE_DATA_PAGE / 64; w < WORDS; w++)
        if (bits[w])
            return false;
    return true;
}

/* The first rule that does not hold, or NULL. */
static const char *broken_rule(struct probe_vm *vm)
{
    uint64_t bits[WORDS] = { 0 }, all[WORDS];
    memset(all, 0xff, sizeof(all));
    if (fetch(vm, bits) < 0 || memcmp(bits, all, sizeof(all)) != 0)
        return "after the log is switched on, not every page counts as written";
    if (clear(vm, 0, PROBE_RAM_PAGES, all) < 0 || fetch(vm, bits) < 0 || !is_empty(bits))
        return "pages cannot be cleared from the log";
    if (guest_writes(vm))
        return "the guest does not run with the log on";
    if (fetch(vm, bits) < 0 || !names_what_was_written(bits, 0))
        return "the log does not name just the pages that the guest wrote";
    if (fetch(vm, bits) < 0 || !names_what_was_written(bits, 0))
        return "fetching the log changes it";
    uint64_t chunk = FIRST / 64 * 64;
    if (clear(vm, chunk, 64, bits + chunk / 64) < 0 || fetch(vm, bits) < 0 ||
        !names_what_was_written(bits, chunk + 64))
        return "clearing a chunk of the log clears more or less than that chunk";
    if (guest_writes(vm) || fetch(vm, bits) < 0 || !names_what_was_written(bits, 0))
        return "a page written after its clearing is not logged again";
    return NULL;
}

void probe_dirty_log(struct probe_result *ret)
{
    struct probe_vm vm;
    if (probe_vm_open(&vm) || probe_vm_vcpu(&vm, 3)) {
        probe_no(ret, "%s", vm.why);
        return;
    }
    struct kvm_enable_cap manual = { .cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
                                     .args = { KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE |
                                               KVM_DIRTY_LOG_INITIALLY_SET } };
    if (ioctl(vm.vm, KVM_ENABLE_CAP, &manual) < 0) {
        probe_no(ret, "no manual clearing with all pages set at first: %s", strerror(errno));
        return;
    }
    vm.slot.flags = KVM_MEM_LOG_DIRTY_PAGES;
    if (ioctl(vm.vm, KVM_SET_USER_MEMORY_REGION, &vm.slot) < 0) {
        probe_wrong(ret, "the log cannot be switched on: %s", strerror(errno));
        return;
    }
    const char *broken = broken_rule(&vm);
    if (broken) {
        probe_wrong(ret, "%s", broken);
        return;
    }
    uint64_t bits[WORDS] = { 0 }, all[WORDS];
    memset(all, 0xff, sizeof(all));
    if (clear(&vm, 0, PROBE_RAM_PAGES, all) < 0) {
        probe_wrong(ret, "pages cannot be cleared from the log");
        return;
    }
    memset(vm.ram + PROBE_DATA_GPA, 1, 16 * PAGE_BYTES);
    /* Logged or not, godwit is right: it marks its own writes. It is worth knowing. */
    bool logged = fetch(&vm, bits) == 0 && !is_empty(bits);
    probe_yes(
        ret, json_pack("{s:b}", "monitor_writes_logged", logged),
        "every page at first, then just those written since they were cleared; the monitor's own writes are %s",
        logged ? "logged too" : "not in it");
}

void probe_dirty_ring(struct probe_result *ret)
{
    struct probe_vm vm;
    if (probe_vm_open(&vm)) {
        probe_no(ret, "%s", vm.why);
        return;
    }
    int bytes = ioctl(vm.vm, KVM_CHECK_EXTENSION, (unsigned long)KVM_CAP_DIRTY_LOG_RING_ACQ_REL);
    if (bytes <= 0) {
        probe_no(ret, "this KVM has no dirty ring");
        return;
    }
    struct kvm_enable_cap ring = { .cap = KVM_CAP_DIRTY_LOG_RING_ACQ_REL,
                                   .args = { (uint64_t)bytes } };
    if (ioctl(vm.vm, KVM_ENABLE_CAP, &ring) < 0)
        probe_no(ret, "the dirty ring cannot be switched on: %s", strerror(errno));
    else
        probe_yes(ret,
                  json_pack("{s:I}", "entries",
                            (json_int_t)((size_t)bytes / sizeof(struct kvm_dirty_gfn))),
                  "up to %zu entries a vCPU", (size_t)bytes / sizeof(struct kvm_dirty_gfn));
}
