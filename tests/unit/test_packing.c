#include "base/compiler.h"
#include "base/err.h"
#include "move/packing.h"
#include "test.h"

#include <errno.h>
#include <string.h>

static uint64_t seed = 4711;

static uint64_t roll(uint64_t below)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed % below;
}

/* Bytes as compressible as `sort` says: 0 not at all. */
static void fill(uint8_t *bytes, size_t len, unsigned sort)
{
    for (size_t i = 0; i < len; i++)
        bytes[i] = (uint8_t)(sort == 0 ? roll(256) : sort == 1 ? roll(4) : i / 64);
}

static void test_round_trip(void **state)
{
    (void)state;
    static uint8_t plain[PAGES_PLAIN_MAX], back[PAGES_PLAIN_MAX];
    struct unpacker unpacker = { 0 };
    for (enum packing_mode mode = PACKING_MODE_LZ4; mode <= PACKING_MODE_ZSTD; mode++) {
        struct packer packer;
        packer_init(&packer, mode, PAGE_FORMS_ALL);
        for (unsigned i = 0; i < 60; i++) {
            size_t len = i == 0 ? sizeof(plain) : roll(sizeof(plain) + 1);
            enum pages_packing how;
            struct err err;
            fill(plain, len, 1 + i % 2);
            size_t n = packer_pack(&packer, plain, len, 0, &how);
            assert_int_equal(n > 0, len >= 4096);
            if (n == 0)
                continue;
            assert_true(n < len);
            assert_int_equal(how, mode == PACKING_MODE_LZ4 ? PACKING_LZ4 : PACKING_ZSTD);
            const uint8_t *packed = packer.out + PACKER_FRONT_BYTES;
            assert_int_equal(unpacker_unpack(&unpacker, how, packed, n, back, len, &err), 0);
            assert_memory_equal(plain, back, len);
            /* Any other length, and every cut, is refused. */
            assert_int_not_equal(unpacker_unpack(&unpacker, how, packed, n, back, len - 1, &err),
                                 0);
            assert_int_equal(err.fault, ERR_PEER);
            if (len < sizeof(back))
                assert_int_not_equal(unpacker_unpack(&unpacker, how, packed, n, back, len + 1,
                                                     &err),
                                     0);
            size_t step = i < 2 ? 1 + n / 2000 : 1 + n / 20;
            for (size_t cut = 0; cut < n; cut += step) {
                uint8_t *part = malloc(cut + 1);
                memcpy(part, packed, cut);
                assert_int_not_equal(unpacker_unpack(&unpacker, how, part, cut, back, len, &err),
                                     0);
                free(part);
            }
        }
        packer_fini(&packer);
    }
    unpacker_fini(&unpacker);
}

static void test_incompressible_stays(void **state)
{
    (void)state;
    static uint8_t plain[PAGES_PLAIN_MAX];
    struct packer packer;
    enum pages_packing how;
    fill(plain, sizeof(plain), 0);
    packer_init(&packer, PACKING_MODE_ZSTD, PAGE_FORMS_ALL);
    for (unsigned i = 0; i < 40; i++)
        assert_int_equal(packer_pack(&packer, plain, sizeof(plain), 0, &how), 0);
    assert_int_equal(how, PACKING_NONE);
    packer_fini(&packer);
}

/* On a slow link what shrinks is packed, on one that is faster than memory nothing is, and a reader that knows
 * no form gets none. */
static void test_chosen_by_the_link(void **state)
{
    (void)state;
    static uint8_t plain[PAGES_PLAIN_MAX];
    static const struct {
        uint64_t rate;
        unsigned forms, sort;
        bool packed;
    } rows[] = {
        { 1000000, PAGE_FORMS_ALL, 1, true },
        { 1000000, PAGE_FORM_LZ4, 2, true },
        { UINT64_C(1) << 50, PAGE_FORMS_ALL, 1, false },
        { 1000000, PAGE_FORMS_ALL, 0, false },
        { 1000000, PAGE_FORM_DELTA, 1, false },
        { 0, PAGE_FORMS_ALL, 1, false }, /* nothing is known yet */
    };
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
        struct packer packer;
        enum pages_packing how = PACKING_NONE;
        size_t n = 0;
        fill(plain, sizeof(plain), rows[i].sort);
        packer_init(&packer, PACKING_MODE_AUTO, rows[i].forms);
        for (unsigned k = 0; k < 20; k++)
            n = packer_pack(&packer, plain, sizeof(plain), rows[i].rate, &how);
        if ((n > 0) != rows[i].packed)
            fail_msg("row %u", i);
        if (rows[i].forms == PAGE_FORM_LZ4)
            assert_int_equal(how, PACKING_LZ4);
        packer_fini(&packer);
    }
}

/* Frames made up or damaged: refused, or exactly as long as said; never beyond (the sanitizer would tell). */
static void test_hostile(void **state)
{
    (void)state;
    static uint8_t plain[65536];
    struct unpacker unpacker = { 0 };
    struct packer packer;
    fill(plain, sizeof(plain), 1);
    for (unsigned i = 0; i < 4000; i++) {
        enum pages_packing how;
        struct err err;
        packer_init(&packer, i % 2 ? PACKING_MODE_LZ4 : PACKING_MODE_ZSTD, PAGE_FORMS_ALL);
        size_t n = packer_pack(&packer, plain, 4096 + roll(8192), 0, &how);
        uint8_t *bytes = malloc(n), *out = malloc(4096);
        memcpy(bytes, packer.out + PACKER_FRONT_BYTES, n);
        for (uint64_t k = 1 + roll(4); k > 0; k--)
            bytes[roll(roll(2) ? MIN(n, (size_t)16) : n)] = (uint8_t)roll(256);
        if (unpacker_unpack(&unpacker, how, bytes, n, out, 4096, &err))
            assert_int_equal(err.fault, ERR_PEER);
        free(bytes);
        free(out);
        packer_fini(&packer);
    }
    struct err err;
    assert_int_not_equal(unpacker_unpack(&unpacker, PACKING_NONE, plain, 9, plain, 9, &err), 0);
    unpacker_fini(&unpacker);
}

static void test_names(void **state)
{
    (void)state;
    enum packing_mode mode;
    assert_int_equal(packing_mode_of("auto", &mode), 0);
    assert_int_equal(mode, PACKING_MODE_AUTO);
    assert_int_equal(packing_mode_of("zstd", &mode), 0);
    assert_int_equal(mode, PACKING_MODE_ZSTD);
    assert_int_equal(packing_mode_of("gzip", &mode), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_incompressible_stays),
        cmocka_unit_test(test_chosen_by_the_link),
        cmocka_unit_test(test_hostile),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
