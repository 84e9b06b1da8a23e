/*
 * Streams of every release, kept for ever in golden/: NAME.stream, and NAME.json, the dump that
 * release made of it. Each must still read, and say the same; fields added since must be zero or
 * empty in it.
 *
 * test_wire_golden --write PREFIX     writes PREFIX.stream and PREFIX.json as this build would
 */
#include "wire.h"

#include "base/fd.h"

#include <glob.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define NEWEST "v2" /* the golden stream that this build would write, byte for byte */

static bool is_empty(const json_t *v)
{
    const char *text = json_string_value(v);
    return json_is_null(v) || json_is_false(v) ||
           (json_is_integer(v) && json_integer_value(v) == 0) ||
           (json_is_array(v) && json_array_size(v) == 0) ||
           (text && text[strspn(text, "0")] == '\0');
}

/* All that `was` says, `is` says too, and what it says more is empty. */
static void require_same(const json_t *was, const json_t *is, const char *path)
{
    char below[200];
    const char *key;
    const json_t *value;
    size_t i;
    if (json_is_object(was) && json_is_object(is)) {
        json_object_foreach ((json_t *)(uintptr_t)was, key, value) {
            (void)snprintf(below, sizeof(below), "%.120s.%.60s", path, key);
            require_same(value, json_object_get(is, key), below);
        }
        json_object_foreach ((json_t *)(uintptr_t)is, key, value)
            if (!json_object_get(was, key) && !is_empty(value))
                fail_msg("%s.%s is new and not empty in an old stream", path, key);
    } else if (json_is_array(was) && json_array_size(was) == json_array_size(is)) {
        json_array_foreach (was, i, value) {
            (void)snprintf(below, sizeof(below), "%.150s[%zu]", path, i);
            require_same(value, json_array_get(is, i), below);
        }
    } else if (!json_equal(was, is)) {
        fail_msg("%s differs", path);
    }
}

static void test_old_streams_read_the_same(void **state)
{
    (void)state;
    glob_t files;
    assert_int_equal(glob(WIRE_DIR "/golden/*.stream", 0, NULL, &files), 0);
    for (size_t i = 0; i < files.gl_pathc; i++) {
        char *bytes, path[4096];
        size_t len;
        struct err err = { 0 };
        int rc;
        assert_int_equal(fd_read_file(files.gl_pathv[i], 8192, &bytes, &len), 0);
        (void)snprintf(path, sizeof(path), "%.*s.json",
                       (int)(strlen(files.gl_pathv[i]) - strlen(".stream")), files.gl_pathv[i]);
        json_t *was = json_load_file(path, 0, NULL), *is = wire_dump(bytes, len, &rc, &err);
        if (rc)
            fail_msg("%s: %s", files.gl_pathv[i], err.text);
        assert_non_null(was);
        require_same(was, is, "dump");
        json_decref(was);
        json_decref(is);
        free(bytes);
    }
    globfree(&files);
}

static void test_this_build_writes_the_newest(void **state)
{
    (void)state;
    char *bytes;
    size_t len;
    CLEANUP_BUF struct buf now = { 0 };
    wire_stream(&now, 0);
    assert_int_equal(fd_read_file(WIRE_DIR "/golden/" NEWEST ".stream", 8192, &bytes, &len), 0);
    if (len != now.len || memcmp(bytes, now.data, len) != 0)
        fail_msg("this build writes other bytes than golden/" NEWEST
                 ".stream: if that is meant (a\n"
                 "schema got a new version or a section was added), keep the old files, write the\n"
                 "next pair with --write, raise NEWEST. Only a pair that no release wrote may be\n"
                 "replaced.");
    free(bytes);
}

static int write_pair(const char *prefix)
{
    CLEANUP_BUF struct buf stream = { 0 };
    char path[4096];
    struct err err;
    int rc;
    wire_stream(&stream, 0);
    (void)snprintf(path, sizeof(path), "%s.stream", prefix);
    if (fd_replace_file(path, stream.data, stream.len, NULL))
        return 1;
    json_t *dump = wire_dump(stream.data, stream.len, &rc, &err);
    (void)snprintf(path, sizeof(path), "%s.json", prefix);
    rc = rc || json_dump_file(dump, path, JSON_INDENT(1)) ? 1 : 0;
    json_decref(dump);
    return rc;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "--write") == 0)
        return write_pair(argv[2]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_old_streams_read_the_same),
        cmocka_unit_test(test_this_build_writes_the_newest),
    };
    return cmocka_run_group_tests_name("wire_golden", tests, NULL, NULL);
}
