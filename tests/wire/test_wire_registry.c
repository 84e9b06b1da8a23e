/*
 * The format does not change by accident: fingerprints.txt has one line, `name version
 * fingerprint`, for every version of every schema there ever was, and each must still be what
 * this build would write for that version. `test_wire_registry --write FILE` writes the lines of
 * the newest versions.
 */
#include "wire.h"

#include "base/fd.h"

#include <glob.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static const struct schema *find(const char *name)
{
    for (size_t i = 0; i < wire_schema_count; i++)
        if (strcmp(wire_schemas[i]->name, name) == 0)
            return wire_schemas[i];
    return NULL;
}

/* The schema as it was when `version` was its newest: fields are only ever appended, after a
 * `since`. */
static uint64_t fingerprint_of(const struct schema *schema, uint16_t version)
{
    struct schema then = *schema;
    then.version = version;
    for (then.field_count = 0; then.field_count < schema->field_count; then.field_count++) {
        const struct schema_field *f = &schema->fields[then.field_count];
        if (f->kind == SCHEMA_SINCE && f->max > version)
            break;
    }
    return schema_fingerprint(&then);
}

static void check_line(const char *line)
{
    char name[64];
    unsigned version;
    uint64_t fingerprint;
    if (sscanf(line, "%63s %u %" SCNx64, name, &version, &fingerprint) != 3)
        fail_msg("fingerprints.txt: not `name version fingerprint`: %.80s", line);
    const struct schema *schema = find(name);
    if (!schema)
        fail_msg("%s is gone: streams that hold it can no longer be read", name);
    if (version > schema->version)
        fail_msg("%s went back from version %u to %u", name, version, schema->version);
    uint64_t now = fingerprint_of(schema, (uint16_t)version);
    if (now != fingerprint)
        fail_msg(
            "the bytes of %s version %u changed (fingerprint %016" PRIx64 ", now %016" PRIx64 ").\n"
            "Streams of this version are out there and would be misread. Put it back, append\n"
            "what is new after F(T, since, %u), raise the version in SCHEMA_DEFINE to %u, add the\n"
            "line it then asks for to tests/wire/fingerprints.txt, and keep the old lines. Only a\n"
            "version that no release ever wrote may have its line replaced.",
            name, version, fingerprint, now, schema->version + 1u, schema->version + 1u);
}

static void test_bytes_did_not_change(void **state)
{
    (void)state;
    char *text, *save = NULL;
    size_t len;
    assert_int_equal(fd_read_file(WIRE_DIR "/fingerprints.txt", 1 << 20, &text, &len), 0);
    bool listed[256] = { false };
    assert_true(wire_schema_count <= ARRAY_LEN(listed));
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        if (line[0] == '#')
            continue;
        check_line(line);
        char name[64];
        unsigned version;
        assert_int_equal(sscanf(line, "%63s %u", name, &version), 2);
        for (size_t i = 0; i < wire_schema_count; i++)
            listed[i] |=
                strcmp(wire_schemas[i]->name, name) == 0 && wire_schemas[i]->version == version;
    }
    free(text);
    for (size_t i = 0; i < wire_schema_count; i++)
        if (!listed[i])
            fail_msg("add this line to tests/wire/fingerprints.txt:\n%s %u %016" PRIx64,
                     wire_schemas[i]->name, wire_schemas[i]->version,
                     schema_fingerprint(wire_schemas[i]));
}

/* Every SCHEMA_DEFINE of the sources is in the list, so that no format goes untested. */
static void test_no_schema_forgotten(void **state)
{
    (void)state;
    glob_t files;
    size_t found = 0;
    assert_int_equal(glob(SOURCE_ROOT "/src/*/*.c", 0, NULL, &files), 0);
    for (size_t i = 0; i < files.gl_pathc; i++) {
        char *text, name[64];
        size_t len;
        assert_int_equal(fd_read_file(files.gl_pathv[i], 1 << 20, &text, &len), 0);
        for (const char *at = text; (at = strstr(at, "\nSCHEMA_DEFINE(")) != NULL; at++) {
            assert_int_equal(sscanf(at, "\nSCHEMA_DEFINE(%63[a-z0-9_]", name), 1);
            found++;
            if (!find(name))
                fail_msg("%s defines %s: add &%s_schema to tests/wire/wire.c", files.gl_pathv[i],
                         name, name);
        }
        free(text);
    }
    globfree(&files);
    assert_int_equal(found, wire_schema_count);
}

static int write_lines(const char *path)
{
    CLEANUP_BUF struct buf text = { 0 };
    for (size_t i = 0; i < wire_schema_count; i++)
        buf_printf(&text, "%s %u %016" PRIx64 "\n", wire_schemas[i]->name, wire_schemas[i]->version,
                   schema_fingerprint(wire_schemas[i]));
    return text.broken || fd_replace_file(path, text.data, text.len, NULL) ? 1 : 0;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "--write") == 0)
        return write_lines(argv[2]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes_did_not_change),
        cmocka_unit_test(test_no_schema_forgotten),
    };
    return cmocka_run_group_tests_name("wire_registry", tests, NULL, NULL);
}
