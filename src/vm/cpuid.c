/*
 * CPUID for the guest, and between hosts. Leaves by number: Intel SDM volume 2A (CPUID), AMD APM
 * volume 3 appendix E.
 *
 * A guest keeps what it was shown for as long as it lives, so a move asks of the new host: the same
 * vendor; every feature bit (vm/cpuid_features.c); each part of the XSAVE area of the same size at
 * the same place, since the saved area is laid out by them; address bits and event counters enough.
 * Family, model, brand and cache sizes are only facts the guest was told: they do not have to
 * match.
 */
#include "vm/cpuid.h"
#include "kvm/hv.h"
#include "vm/cpuid_features.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define BIT(n) (UINT32_C(1) << (n))
#define TSC_PPM_MAX 250 /* what KVM, like NTP's discipline of a clock, takes for the same rate */

/* The entry, or all zero: what a processor answers for a leaf it does not have. */
static struct hv_cpuid_leaf find(const struct hv_cpuid *cpuid, uint32_t leaf, uint32_t subleaf)
{
    for (uint32_t i = 0; i < cpuid->leaf_count && i < HV_CPUID_MAX; i++) {
        const struct hv_cpuid_leaf *l = &cpuid->leaf[i];
        if (l->leaf == leaf && (!l->has_subleaf || l->subleaf == subleaf))
            return *l;
    }
    return (struct hv_cpuid_leaf){ .leaf = leaf, .subleaf = subleaf };
}

/* --------------------------------------------------------------------------------- for one vCPU */

static uint32_t put_field(uint32_t reg, unsigned low, unsigned bits, uint32_t value)
{
    uint32_t mask = (BIT(bits) - 1) << low;
    return (reg & ~mask) | (value << low & mask);
}

static unsigned bits_for(unsigned count)
{
    unsigned bits = 0;
    while (1u << bits < count)
        bits++;
    return bits;
}

/* Caches of levels 1 and 2 belong to one core, those above to all: leaves 4 and 0x8000001d. */
static uint32_t cache_sharing(uint32_t eax, unsigned vcpus)
{
    unsigned level = eax >> 5 & 7;
    return put_field(eax, 14, 12, level > 2 ? vcpus - 1 : 0);
}

/* Virtualisation inside of the guest is not shown: its state would be lost in a move. */
static void fit(struct hv_cpuid_leaf *l, unsigned vcpu, unsigned vcpus)
{
    switch (l->leaf) {
    case 0x1:
        l->ebx = put_field(put_field(l->ebx, 24, 8, vcpu), 16, 8, vcpus);
        l->ecx |= BIT(24) | BIT(31); /* TSC deadline timer (of the in-kernel APIC), hypervisor */
        l->ecx &= ~BIT(5);           /* VMX */
        l->edx = put_field(l->edx, 28, 1, vcpus > 1);
        break;
    case 0x4:
        if (l->eax & 31)
            l->eax = put_field(cache_sharing(l->eax, vcpus), 26, 6, vcpus - 1);
        break;
    case 0x40000001:
        /* Asynchronous page faults: a vCPU that waits for a page of this host's would have to be told at the
         * other one that it came. Without them the vCPU just waits. Bits: ASYNC_PF, _VMEXIT, _INT (Linux
         * Documentation/virt/kvm/x86/cpuid.rst). */
        l->eax &= ~(BIT(4) | BIT(10) | BIT(14));
        break;
    case 0x80000001:
        l->ecx &= ~BIT(2); /* SVM */
        /* AMD's older word for "more than one core", which the threads of leaf 1 otherwise are. */
        if (l->ecx & BIT(1) || l->ecx & BIT(22))
            l->ecx = put_field(l->ecx, 1, 1, vcpus > 1);
        break;
    case 0x80000008:
        l->ecx = put_field(put_field(l->ecx, 12, 4, bits_for(vcpus)), 0, 8, vcpus - 1);
        break;
    case 0x8000001d:
        if (l->eax & 31)
            l->eax = cache_sharing(l->eax, vcpus);
        break;
    case 0x8000001e:
        l->eax = vcpu;
        l->ebx = vcpu; /* core id; one thread a core */
        l->ecx = 0;    /* one node */
        break;
    default:
        break;
    }
}

static int append(struct hv_cpuid *cpuid, struct hv_cpuid_leaf leaf)
{
    if (cpuid->leaf_count >= HV_CPUID_MAX)
        return -E2BIG;
    cpuid->leaf[cpuid->leaf_count++] = leaf;
    return 0;
}

/* Leaf 0xb: level 0 is threads of a core (one), level 1 cores of the package, level 2 the end. */
static int append_topology(struct hv_cpuid *cpuid, unsigned vcpu, unsigned vcpus)
{
    const struct hv_cpuid_leaf levels[] = {
        { 0xb, 0, 1, .eax = 0, .ebx = 1, .ecx = 1 << 8 | 0, .edx = vcpu },
        { 0xb, 1, 1, .eax = bits_for(vcpus), .ebx = vcpus, .ecx = 2 << 8 | 1, .edx = vcpu },
        { 0xb, 2, 1, .ecx = 2, .edx = vcpu },
    };
    int rc = 0;
    for (size_t i = 0; !rc && i < ARRAY_LEN(levels); i++)
        rc = append(cpuid, levels[i]);
    return rc;
}

int cpuid_for_vcpu(const struct hv_cpuid *base, unsigned vcpu, unsigned vcpus, struct hv_cpuid *ret)
{
    ASSERT(vcpus >= 1 && vcpus <= HV_VCPUS_MAX && vcpu < vcpus);
    struct hv_cpuid *out = ret;
    memset(out, 0, sizeof(*out));
    out->tsc_khz = base->tsc_khz;
    for (uint32_t i = 0; i < base->leaf_count && i < HV_CPUID_MAX; i++) {
        struct hv_cpuid_leaf leaf = base->leaf[i];
        /* The host's own topology: 0xb is made anew, and without 0x1f guests take 0xb. */
        if (leaf.leaf == 0xb || leaf.leaf == 0x1f)
            continue;
        fit(&leaf, vcpu, vcpus);
        out->leaf[out->leaf_count++] = leaf;
    }
    return find(base, 0, 0).eax >= 0xb ? append_topology(out, vcpu, vcpus) : 0;
}

/* ------------------------------------------------------------------------------- between hosts */

struct compare {
    const struct hv_cpuid *need, *have;
    void (*lacking)(void *arg, const char *what);
    void *arg;
    unsigned count;
};

static void PRINTF(2, 3) lack(struct compare *c, const char *fmt, ...)
{
    char what[96];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(what, sizeof(what), fmt, ap);
    va_end(ap);
    c->count++;
    if (c->lacking)
        c->lacking(c->arg, what);
}

/* A peer's bytes may be anything: what is no letter is shown as '?'. */
static void vendor_of(const struct hv_cpuid *cpuid, char name[13])
{
    struct hv_cpuid_leaf l = find(cpuid, 0, 0);
    uint32_t regs[] = { l.ebx, l.edx, l.ecx };
    for (unsigned i = 0; i < 12; i++) {
        char byte = (char)(regs[i / 4] >> (i % 4 * 8));
        name[i] = byte > ' ' && byte <= '~' ? byte : '?';
    }
    name[12] = '\0';
}

static void compare_vendor(struct compare *c)
{
    char need[13], have[13];
    vendor_of(c->need, need);
    vendor_of(c->have, have);
    if (strcmp(need, have) != 0)
        lack(c, "vendor %s (this host: %s)", need, have);
}

static uint32_t register_of(const struct hv_cpuid *cpuid, const struct cpuid_features *f)
{
    struct hv_cpuid_leaf l = find(cpuid, f->leaf, f->subleaf);
    switch (f->reg) {
    case CPUID_EAX:
        return l.eax;
    case CPUID_EBX:
        return l.ebx;
    case CPUID_ECX:
        return l.ecx;
    case CPUID_EDX:
        return l.edx;
    }
    return 0;
}

static void compare_features(struct compare *c)
{
    static const char *const names[] = { "eax", "ebx", "ecx", "edx" };
    for (size_t i = 0; i < cpuid_features_count; i++) {
        const struct cpuid_features *f = &cpuid_features[i];
        uint32_t missing = register_of(c->need, f) & ~register_of(c->have, f) & ~f->ignore;
        for (unsigned bit = 0; bit < 32; bit++) {
            if (!(missing & BIT(bit)))
                continue;
            if (f->names[bit])
                lack(c, "%s", f->names[bit]);
            else
                lack(c, "cpuid 0x%x.%u %s bit %u", f->leaf, f->subleaf, names[f->reg], bit);
        }
    }
}

/* Parts 0 and 1 are the fixed legacy area. */
static void compare_xsave(struct compare *c)
{
    struct hv_cpuid_leaf need = find(c->need, 0xd, 0), have = find(c->have, 0xd, 0);
    struct hv_cpuid_leaf need1 = find(c->need, 0xd, 1), have1 = find(c->have, 0xd, 1);
    uint64_t parts =
        ((uint64_t)need.edx << 32 | need.eax) | ((uint64_t)need1.edx << 32 | need1.ecx);
    uint64_t here = ((uint64_t)have.edx << 32 | have.eax) | ((uint64_t)have1.edx << 32 | have1.ecx);
    parts &= here; /* a part that is not here at all was named among the features */
    for (unsigned part = 2; part < 63; part++) {
        if (!(parts >> part & 1))
            continue;
        struct hv_cpuid_leaf a = find(c->need, 0xd, part), b = find(c->have, 0xd, part);
        if (a.eax != b.eax || a.ebx != b.ebx)
            lack(c, "xsave part %u of %u bytes at %u (this host: %u at %u)", part, a.eax, a.ebx,
                 b.eax, b.ebx);
    }
}

static void compare_limits(struct compare *c)
{
    uint32_t need = find(c->need, 0x80000008, 0).eax & 0xff;
    uint32_t have = find(c->have, 0x80000008, 0).eax & 0xff;
    if (need > have)
        lack(c, "%u physical address bits (this host: %u)", need, have);

    /* Intel's architectural performance monitoring: version, counters, their width. */
    static const struct {
        const char *what;
        unsigned shift;
    } counters[] = { { "version", 0 }, { "counters", 8 }, { "counter bits", 16 } };
    for (size_t i = 0; i < ARRAY_LEN(counters); i++) {
        need = find(c->need, 0xa, 0).eax >> counters[i].shift & 0xff;
        have = find(c->have, 0xa, 0).eax >> counters[i].shift & 0xff;
        if (need > have)
            lack(c, "performance monitoring %s %u (this host: %u)", counters[i].what, need, have);
    }
}

static void compare_tsc(struct compare *c)
{
    uint64_t need = c->need->tsc_khz, have = c->have->tsc_khz;
    bool promised = find(c->need, 0x80000007, 0).edx & BIT(8);
    uint64_t apart = need > have ? need - have : have - need;
    if (promised && need && have && apart * 1000000 > need * TSC_PPM_MAX)
        lack(c, "TSC of %llu kHz (this host: %llu)", (unsigned long long)need,
             (unsigned long long)have);
}

unsigned cpuid_compare(const struct hv_cpuid *need, const struct hv_cpuid *have,
                       void (*lacking)(void *arg, const char *what), void *arg)
{
    struct compare c = { .need = need, .have = have, .lacking = lacking, .arg = arg };
    compare_vendor(&c);
    compare_features(&c);
    compare_xsave(&c);
    compare_limits(&c);
    compare_tsc(&c);
    return c.count;
}

#define NAMED_MAX 8

struct list {
    char text[320];
    size_t len;
    unsigned named;
};

static void name_one(void *arg, const char *what)
{
    struct list *list = arg;
    size_t room = sizeof(list->text) - list->len;
    if (list->named == NAMED_MAX || strlen(what) + 3 > room)
        return;
    const char *comma = list->named ? ", " : "";
    list->len += (size_t)snprintf(list->text + list->len, room, "%s%s", comma, what);
    list->named++;
}

int cpuid_check(const struct hv_cpuid *need, const struct hv_cpuid *have, struct err *err)
{
    struct list list = { 0 };
    unsigned count = cpuid_compare(need, have, name_one, &list);
    if (count == 0)
        return 0;
    if (count > list.named)
        return err_set(err, ERR_HOST, ENOTSUP, "this host's CPU lacks %s and %u more", list.text,
                       count - list.named);
    return err_set(err, ERR_HOST, ENOTSUP, "this host's CPU lacks %s", list.text);
}
