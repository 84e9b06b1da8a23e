/*
 * vm/acpi seen by ACPI's reference compiler: iasl takes every table apart without a complaint,
 * compiles what it got without a warning, and ends up with the very bytes it was given.
 */
#include "base/fd.h"
#include "test.h"
#include "vm/acpi.h"
#include "vm/config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char dir[64];

static uint32_t length_of(const uint8_t *table)
{
    return table[4] | (uint32_t)table[5] << 8 | (uint32_t)table[6] << 16;
}

/* Runs iasl in the directory and returns all it said. */
static void iasl(const char *args, char *said, size_t size)
{
    char command[256];
    (void)snprintf(command, sizeof(command), "cd %s && iasl %s 2>&1", dir, args);
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    size_t len = fread(said, 1, size - 1, pipe);
    said[len] = '\0';
    if (pclose(pipe) != 0)
        fail_msg("iasl %s:\n%s", args, said);
}

static void check_table(const uint8_t *table)
{
    char path[64], said[16384], *again;
    size_t again_len, len = length_of(table);
    struct err err = { 0 };

    (void)snprintf(path, sizeof(path), "%s/in.aml", dir);
    if (fd_replace_file(path, table, len, &err) < 0)
        fail_msg("%s", err.text);
    iasl("-d in.aml", said, sizeof(said));
    if (strstr(said, "Error") || strstr(said, "Warning"))
        fail_msg("%.4s taken apart:\n%s", (const char *)table, said);
    iasl("-p out in.dsl", said, sizeof(said));
    if (memcmp(table, "DSDT", 4) == 0 && !strstr(said, " 0 Errors, 0 Warnings, 0 Remarks"))
        fail_msg("DSDT compiled:\n%s", said);
    if (strstr(said, "Error ") || strstr(said, "Warning "))
        fail_msg("%.4s compiled:\n%s", (const char *)table, said);

    (void)snprintf(path, sizeof(path), "%s/out.aml", dir);
    assert_int_equal(fd_read_file(path, 1 << 20, &again, &again_len), 0);
    assert_int_equal(again_len, len);
    /* The head's sum and compiler differ; what it describes does not. */
    assert_memory_equal(again + 36, table + 36, len - 36);
    free(again);
}

static void check_machine(unsigned vcpus, unsigned devices)
{
    static const char *const signatures[] = { "DSDT", "FACP", "APIC" };
    struct buf b = { 0 };
    unsigned seen = 0;

    acpi_build(&b, vcpus, devices);
    assert_int_equal(buf_status(&b), 0);
    for (size_t at = 48; at + 36 <= b.len; at = (at + length_of(b.data + at) + 15) & ~(size_t)15)
        for (size_t i = 0; i < ARRAY_LEN(signatures); i++)
            if (memcmp(b.data + at, signatures[i], 4) == 0) {
                check_table(b.data + at);
                seen |= 1u << i;
            }
    assert_int_equal(seen, 7);
    buf_free(&b);
}

static void machines_are_clean(void **state)
{
    (void)state;
    check_machine(1, 0);
    check_machine(2, 3);
    check_machine(CONFIG_VCPUS_MAX, CONFIG_DEVICES_MAX);
}

static int remove_files(void **state)
{
    static const char *const names[] = { "in.aml", "in.dsl", "out.aml" };
    char path[64];
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        (void)snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
        (void)unlink(path);
    }
    return rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(machines_are_clean) };
    if (system("command -v iasl >/dev/null 2>&1") != 0) {
        puts("skipped: iasl is not installed (Debian package acpica-tools)");
        return 77;
    }
    (void)snprintf(dir, sizeof(dir), "%s/godwit-acpi-XXXXXX", test_tmp());
    if (!mkdtemp(dir)) {
        perror(dir);
        return 1;
    }
    return cmocka_run_group_tests(tests, NULL, remove_files);
}
