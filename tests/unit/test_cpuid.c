/* vm/cpuid: each vCPU's identity and topology, and what a host lacks, by name. */
#include "kvm/hv.h"
#include "vm/cpuid.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static void add(struct hv_cpuid *c, uint32_t leaf, uint32_t subleaf, uint32_t eax, uint32_t ebx,
                uint32_t ecx, uint32_t edx)
{
    bool indexed = leaf == 4 || leaf == 7 || leaf == 0xb || leaf == 0xd || leaf == 0x8000001d;
    c->leaf[c->leaf_count++] = (struct hv_cpuid_leaf){ leaf, subleaf, indexed, eax, ebx, ecx, edx };
}

/* An AMD processor of 4 cores with AVX2, as a hypervisor would report it. */
static struct hv_cpuid sample(void)
{
    struct hv_cpuid c = { .tsc_khz = 2596122 };
    add(&c, 0, 0, 0x10, 0x68747541, 0x444d4163, 0x69746e65);
    add(&c, 1, 0, 0x00a20f12, 0x03040800, 1u << 26 | 1u << 28 | 1u << 5, 1u << 28 | 1);
    add(&c, 4, 0, 0x7c00c121, 0, 0, 0);
    add(&c, 4, 1, 0x7c00c163, 0, 0, 0);
    add(&c, 4, 2, 0, 0, 0, 0);
    add(&c, 7, 0, 0, 1u << 5 | 1u << 8 | 1u << 29, 0, 0);
    add(&c, 0xb, 0, 1, 2, 0x100, 3);
    add(&c, 0xb, 1, 4, 8, 0x201, 3);
    add(&c, 0xd, 0, 0x207, 832, 2440, 0);
    add(&c, 0xd, 1, 0xf, 0, 0, 0);
    add(&c, 0xd, 2, 256, 576, 0, 0);
    add(&c, 0xd, 9, 8, 2432, 0, 0);
    add(&c, 0x40000001, 0, 1u << 3 | 1u << 24, 0, 0, 0);
    add(&c, 0x80000001, 0, 0, 0, 1u << 22 | 1u << 2, 1u << 29);
    add(&c, 0x80000007, 0, 0, 0, 0, 1u << 8);
    add(&c, 0x80000008, 0, 0x3030, 0, 0x7007, 0);
    add(&c, 0x8000001d, 0, 0x4121, 0, 0, 0);
    add(&c, 0x8000001d, 3, 0x3c163, 0, 0, 0);
    add(&c, 0x8000001e, 0, 9, 0x109, 0x100, 0);
    return c;
}

static struct hv_cpuid_leaf *at(struct hv_cpuid *c, uint32_t leaf, uint32_t subleaf)
{
    for (uint32_t i = 0; i < c->leaf_count; i++)
        if (c->leaf[i].leaf == leaf && c->leaf[i].subleaf == subleaf)
            return &c->leaf[i];
    fail_msg("no leaf 0x%x.%u", leaf, subleaf);
    return NULL;
}

static void each_vcpu_has_its_place(void **state)
{
    (void)state;
    struct hv_cpuid base = sample(), c;
    for (unsigned vcpus = 1; vcpus <= HV_VCPUS_MAX; vcpus++) {
        for (unsigned vcpu = 0; vcpu < vcpus; vcpu++) {
            assert_int_equal(cpuid_for_vcpu(&base, vcpu, vcpus, &c), 0);
            assert_int_equal(at(&c, 1, 0)->ebx, vcpu << 24 | vcpus << 16 | 0x0800);
            assert_int_equal(at(&c, 1, 0)->ecx & (1u << 31 | 1u << 24), 1u << 31 | 1u << 24);
            assert_int_equal(at(&c, 1, 0)->ecx & 1u << 5, 0);
            assert_int_equal(at(&c, 1, 0)->edx >> 28 & 1, vcpus > 1);
            assert_int_equal(at(&c, 4, 0)->eax, (vcpus - 1) << 26 | 0x121);
            assert_int_equal(at(&c, 4, 1)->eax, (vcpus - 1) << 26 | (vcpus - 1) << 14 | 0x163);
            assert_int_equal(at(&c, 4, 2)->eax, 0);
            assert_int_equal(at(&c, 0xb, 0)->edx, vcpu);
            assert_int_equal(at(&c, 0xb, 0)->ebx, 1);
            assert_int_equal(at(&c, 0xb, 1)->edx, vcpu);
            assert_int_equal(at(&c, 0xb, 1)->ebx, vcpus);
            assert_true(1u << at(&c, 0xb, 1)->eax >= vcpus);
            assert_int_equal(at(&c, 0xb, 2)->ecx, 2);
            assert_int_equal(at(&c, 0x80000008, 0)->ecx & 0xff, vcpus - 1);
            assert_int_equal(at(&c, 0x80000008, 0)->eax, 0x3030);
            assert_int_equal(at(&c, 0x80000001, 0)->ecx & 1u << 2, 0);
            assert_int_equal(at(&c, 0x8000001d, 0)->eax, 0x121);
            assert_int_equal(at(&c, 0x8000001d, 3)->eax, (vcpus - 1) << 14 | 0x163);
            assert_int_equal(at(&c, 0x8000001e, 0)->eax, vcpu);
            assert_int_equal(at(&c, 0x8000001e, 0)->ebx, vcpu);
            assert_int_equal(c.tsc_khz, base.tsc_khz);
        }
    }
}

static void a_full_table_is_refused(void **state)
{
    (void)state;
    struct hv_cpuid base = sample(), c;
    while (base.leaf_count < HV_CPUID_MAX)
        add(&base, 0x80000100 + base.leaf_count, 0, 0, 0, 0, 0);
    assert_int_equal(cpuid_for_vcpu(&base, 0, 1, &c), -E2BIG);
}

struct said {
    char text[1024];
};

static void note(void *arg, const char *what)
{
    struct said *said = arg;
    size_t len = strlen(said->text);
    (void)snprintf(said->text + len, sizeof(said->text) - len, "%s;", what);
}

/* What a host lacks that is the sample but for `change`. */
#define LACKS(expected, change)                                                  \
    do {                                                                         \
        struct hv_cpuid need = sample(), have = sample();                        \
        struct said said = { 0 };                                                \
        change;                                                                  \
        unsigned count = cpuid_compare(&need, &have, note, &said);               \
        assert_string_equal(said.text, expected);                                \
        assert_int_equal(count == 0, said.text[0] == '\0');                      \
        assert_int_equal(cpuid_check(&need, &have, NULL), count ? -ENOTSUP : 0); \
    } while (0)

static void what_is_lacking_has_a_name(void **state)
{
    (void)state;
    LACKS("", (void)0);
    LACKS("", at(&have, 7, 0)->ebx |= 1u << 16); /* more is fine */
    LACKS("", at(&have, 1, 0)->ebx = 0);
    LACKS("", at(&have, 1, 0)->eax = 0x00a60f12);
    LACKS("", at(&need, 1, 0)->ecx |= 1u << 31 | 1u << 27 | 1u << 24);
    LACKS("avx2;", at(&have, 7, 0)->ebx &= ~(1u << 5));
    LACKS("avx2;bmi2;sha_ni;", at(&have, 7, 0)->ebx = 0);
    LACKS("avx512f;", at(&need, 7, 0)->ebx |= 1u << 16);
    LACKS("lm;", at(&have, 0x80000001, 0)->edx = 0);
    LACKS("kvm_clocksource2;", at(&have, 0x40000001, 0)->eax &= ~8u);
    LACKS("cpuid 0x7.0 ecx bit 15;", at(&need, 7, 0)->ecx |= 1u << 15);
    LACKS("avx2;bmi2;sha_ni;", at(&have, 7, 0)->leaf = 0x99); /* no leaf 7 at all */
    LACKS("vendor AuthenticAMD (this host: GenuineIntel);", at(&have, 0, 0)->ebx = 0x756e6547;
          at(&have, 0, 0)->edx = 0x49656e69; at(&have, 0, 0)->ecx = 0x6c65746e);
    LACKS("vendor ????enticAMD (this host: AuthenticAMD);", at(&need, 0, 0)->ebx = 0x0a1bff00);
    LACKS("xsave part 9 of 8 bytes at 2432 (this host: 8 at 2688);", at(&have, 0xd, 9)->ebx = 2688);
    LACKS("xsave part 2 of 256 bytes at 576 (this host: 0 at 0);", at(&have, 0xd, 2)->subleaf = 99);
    LACKS("xsave_pkru;", at(&have, 0xd, 0)->eax = 7; at(&have, 0xd, 9)->eax = 0);
    LACKS("48 physical address bits (this host: 46);", at(&have, 0x80000008, 0)->eax = 0x302e);
    LACKS("", at(&have, 0x80000008, 0)->eax = 0x3034);
    LACKS("performance monitoring version 2 (this host: 0);", add(&need, 0xa, 0, 2, 0, 0, 0));
    LACKS("", have.tsc_khz += 600);
    LACKS("TSC of 2596122 kHz (this host: 2597122);", have.tsc_khz += 1000);
    LACKS("", have.tsc_khz = 0);
    LACKS("", have.tsc_khz += 1000; at(&need, 0x80000007, 0)->edx = 0);
}

static void the_error_is_one_line(void **state)
{
    (void)state;
    struct hv_cpuid need = sample(), have = sample();
    struct err err = { 0 };
    at(&have, 7, 0)->ebx = 0;
    assert_int_equal(cpuid_check(&need, &have, &err), -ENOTSUP);
    assert_int_equal(err.fault, ERR_HOST);
    assert_string_equal(err.text, "this host's CPU lacks avx2, bmi2, sha_ni");
    at(&need, 7, 0)->ebx = UINT32_MAX;
    assert_int_equal(cpuid_check(&need, &have, &err), -ENOTSUP);
    assert_non_null(strstr(err.text, "and 24 more"));
}

/* Whatever a peer sends, nothing breaks; and nothing at all is compatible with anything of its
 * vendor. */
static void any_bytes_are_survived(void **state)
{
    (void)state;
    struct hv_cpuid need, have = sample();
    uint64_t seed = 88172645463325252u;
    for (int round = 0; round < 200; round++) {
        uint32_t *words = (uint32_t *)(void *)&need;
        for (size_t i = 0; i < sizeof(need) / sizeof(*words); i++) {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            words[i] = (uint32_t)(seed >> 16) & (i % 7 == 2 ? 0x800000ff : UINT32_MAX);
        }
        need.leaf_count = round;
        (void)cpuid_compare(&need, &have, NULL, NULL);
        (void)cpuid_compare(&have, &need, NULL, NULL);
    }
    memset(&need, 0, sizeof(need));
    assert_int_equal(cpuid_compare(&need, &have, NULL, NULL), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_vcpu_has_its_place),    cmocka_unit_test(a_full_table_is_refused),
        cmocka_unit_test(what_is_lacking_has_a_name), cmocka_unit_test(the_error_is_one_line),
        cmocka_unit_test(any_bytes_are_survived),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
