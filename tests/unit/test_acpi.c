/* vm/acpi and vm/aml: the chain of tables, their sums, and every length of AML package. */
#include "vm/acpi.h"
#include "vm/aml.h"
#include "vm/config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static uint8_t sum(const uint8_t *bytes, size_t len)
{
    uint8_t total = 0;
    for (size_t i = 0; i < len; i++)
        total = (uint8_t)(total + bytes[i]);
    return total;
}

static uint64_t get(const uint8_t *at, size_t len)
{
    uint64_t value = 0;
    for (size_t i = 0; i < len; i++)
        value |= (uint64_t)at[i] << (8 * i);
    return value;
}

/* The table that a guest finds at `gpa`, its signature, length and sum checked. */
static const uint8_t *table(const struct buf *b, uint64_t gpa, const char *signature)
{
    assert_in_range(gpa, ACPI_GPA, ACPI_GPA + b->len - 36);
    assert_int_equal(gpa % 16, 0);
    const uint8_t *at = b->data + (gpa - ACPI_GPA);
    assert_memory_equal(at, signature, 4);
    assert_in_range(get(at + 4, 4), 36, b->len - (gpa - ACPI_GPA));
    assert_int_equal(sum(at, get(at + 4, 4)), 0);
    return at;
}

static void check_tables(unsigned vcpus, unsigned devices)
{
    struct buf b = { 0 };
    acpi_build(&b, vcpus, devices);
    assert_int_equal(buf_status(&b), 0);
    assert_true(b.len <= ACPI_BYTES_MAX);

    assert_memory_equal(b.data, "RSD PTR ", 8);
    assert_int_equal(sum(b.data, 20), 0);
    assert_int_equal(sum(b.data, 36), 0);
    assert_int_equal(b.data[15], 2);
    const uint8_t *xsdt = table(&b, get(b.data + 24, 8), "XSDT");
    assert_int_equal(get(xsdt + 4, 4), 36 + 2 * 8);

    const uint8_t *fadt = table(&b, get(xsdt + 36, 8), "FACP");
    assert_int_equal(get(fadt + 4, 4), 276);
    assert_int_equal(get(fadt + 109, 2), 0x3c);
    assert_true(get(fadt + 112, 4) & 1 << 20);
    assert_int_equal(get(fadt + 120, 8), ACPI_RESET_PORT);
    assert_int_equal(fadt[128], ACPI_RESET_VALUE);
    assert_int_equal(get(fadt + 248, 8), ACPI_SLEEP_PORT);
    assert_int_equal(get(fadt + 260, 8), ACPI_SLEEP_STATUS_PORT);
    assert_int_equal(get(fadt + 40, 4), get(fadt + 140, 8));
    (void)table(&b, get(fadt + 140, 8), "DSDT");

    const uint8_t *madt = table(&b, get(xsdt + 44, 8), "APIC");
    assert_int_equal(get(madt + 4, 4), 44 + vcpus * 8 + 12);
    for (unsigned i = 0; i < vcpus; i++)
        assert_int_equal(madt[44 + i * 8 + 3], i);
    buf_free(&b);
}

static void tables_are_linked_and_summed(void **state)
{
    (void)state;
    for (unsigned vcpus = 1; vcpus <= CONFIG_VCPUS_MAX; vcpus++)
        for (unsigned devices = 0; devices <= CONFIG_DEVICES_MAX; devices++)
            check_tables(vcpus, devices);
}

static void tables_land_in_memory(void **state)
{
    (void)state;
    struct mem mem;
    struct buf b = { 0 };
    acpi_build(&b, 2, 3);
    assert_int_equal(mem_init(&mem, MEM_MIN_BYTES, MEM_PAGES_SMALL, NULL), 0);
    assert_int_equal(acpi_write(&mem, 2, 3), 0);
    const void *there = mem_get(&mem, gpa_of(ACPI_GPA), b.len);
    assert_non_null(there);
    assert_memory_equal(there, b.data, b.len);
    mem_fini(&mem);
    buf_free(&b);
}

/* A package of any length says so in the fewest bytes; the length counts its own bytes. */
static void lengths_are_shortest(void **state)
{
    (void)state;
    static const size_t bodies[] = { 4,    58,   62,    63,      64,      100,     4092,   4093,
                                     4094, 5000, 70000, 1048571, 1048573, 1048574, 2000000 };
    for (size_t i = 0; i < ARRAY_LEN(bodies); i++) {
        struct buf b = { 0 };
        struct aml aml = { .out = &b };
        aml_scope(&aml, "ABCD");
        memset(buf_grow(&b, bodies[i] - 4), 0xa5, bodies[i] - 4);
        aml_end(&aml);
        assert_int_equal(buf_status(&b), 0);

        size_t more = b.data[1] >> 6, total = b.data[1] & (more ? 15 : 63);
        for (size_t k = 1; k <= more; k++)
            total |= (size_t)b.data[1 + k] << (8 * k - 4);
        assert_int_equal(total, b.len - 1);
        assert_int_equal(b.len, 1 + 1 + more + bodies[i]);
        assert_memory_equal(b.data + 2 + more, "ABCD", 4);
        size_t shorter_holds = more == 0 ? 0 : more == 1 ? 63 : more == 2 ? 4095 : 1048575;
        assert_true(total - 1 > shorter_holds || more == 0 || bodies[i] + more > shorter_holds);
        buf_free(&b);
    }
}

static void integers_are_shortest(void **state)
{
    (void)state;
    static const struct {
        uint64_t value;
        size_t bytes;
    } cases[] = { { 0, 1 },     { 1, 1 },          { 2, 2 },
                  { 255, 2 },   { 256, 3 },        { 65535, 3 },
                  { 65536, 5 }, { UINT32_MAX, 5 }, { UINT64_C(1) << 32, 9 } };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct buf b = { 0 };
        aml_int(&(struct aml){ .out = &b }, cases[i].value);
        assert_int_equal(b.len, cases[i].bytes);
        buf_free(&b);
    }
}

static void eisa_ids_are_packed(void **state)
{
    (void)state;
    static const uint8_t pnp0501[] = { 0x0c, 0x41, 0xd0, 0x05, 0x01 };
    struct buf b = { 0 };
    aml_eisa_id(&(struct aml){ .out = &b }, "PNP0501");
    assert_int_equal(b.len, sizeof(pnp0501));
    assert_memory_equal(b.data, pnp0501, sizeof(pnp0501));
    buf_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tables_are_linked_and_summed), cmocka_unit_test(tables_land_in_memory),
        cmocka_unit_test(lengths_are_shortest),         cmocka_unit_test(integers_are_shortest),
        cmocka_unit_test(eisa_ids_are_packed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
