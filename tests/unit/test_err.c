#include "base/err.h"
#include "test.h"

#include <errno.h>
#include <string.h>

static void set_fills(void **state)
{
    (void)state;
    struct err err = { 0 };
    assert_int_equal(err_set(&err, ERR_PEER, EBADMSG, "section %d", 3), -EBADMSG);
    assert_int_equal(err.code, EBADMSG);
    assert_int_equal(err.fault, ERR_PEER);
    assert_string_equal(err.text, "section 3");
    assert_int_equal(err_errno(&err, ERR_HOST, ENOENT, "disk %s", "root"), -ENOENT);
    assert_string_equal(err.text, "disk root: No such file or directory");
}

static void wrap_keeps_code_and_fault(void **state)
{
    (void)state;
    struct err err = { 0 };
    (void)err_set(&err, ERR_CALLER, ENOENT, "no such file");
    assert_int_equal(err_wrap(&err, -EIO, "cannot start %s", "web1"), -ENOENT);
    assert_int_equal(err.fault, ERR_CALLER);
    assert_string_equal(err.text, "cannot start web1: no such file");
}

static void null_is_allowed(void **state)
{
    (void)state;
    assert_int_equal(err_set(NULL, ERR_HOST, EIO, "x"), -EIO);
    assert_int_equal(err_errno(NULL, ERR_HOST, EIO, "x"), -EIO);
    assert_int_equal(err_wrap(NULL, -EIO, "x"), -EIO);
}

/* A text that is too long is cut, never overrun, and its outermost context survives. */
static void long_texts_are_cut(void **state)
{
    (void)state;
    struct err err = { 0 };
    char long_text[2000];
    memset(long_text, 'a', sizeof(long_text) - 1);
    long_text[sizeof(long_text) - 1] = '\0';
    (void)err_errno(&err, ERR_HOST, EIO, "%s", long_text);
    assert_int_equal(strlen(err.text), sizeof(err.text) - 1);
    for (int i = 0; i < 5; i++)
        (void)err_wrap(&err, -EIO, "level %d", i);
    assert_memory_equal(err.text, "level 4: level 3: level 2", 25);
    assert_int_equal(strlen(err.text), sizeof(err.text) - 1);
    (void)err_wrap(&err, -EIO, "%s", long_text);
    assert_int_equal(strlen(err.text), sizeof(err.text) - 1);
}

static void names_every_fault(void **state)
{
    (void)state;
    assert_string_equal(err_fault_name(ERR_CALLER), "caller");
    assert_string_equal(err_fault_name(ERR_BUG), "bug");
    assert_string_equal(err_fault_name(ERR_FAULT_MAX), "unknown");
    assert_string_equal(err_fault_name((enum err_fault) - 1), "unknown");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(set_fills),         cmocka_unit_test(wrap_keeps_code_and_fault),
        cmocka_unit_test(null_is_allowed),   cmocka_unit_test(long_texts_are_cut),
        cmocka_unit_test(names_every_fault),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
