/* The ready pipe, and errors as JSON. */
#include "test.h"

#include "base/fd.h"
#include "ctl/ready.h"
#include "ctl/reason.h"
#include "vm/config.h"

#include <errno.h>
#include <signal.h>
#include <string.h>

static void success(void **state)
{
    (void)state;
    int fd[2];
    char name[CONFIG_NAME_MAX];
    struct err err = { 0 };
    assert_int_equal(pipe(fd), 0);
    assert_int_equal(ready_report(&fd[1], "web1"), 0);
    assert_int_equal(fd[1], -1);
    (void)err_set(&err, ERR_HOST, EIO, "later");
    ready_report_failure(&fd[1], &err); /* after success: nothing */
    assert_int_equal(ready_wait(fd[0], name, &err), 0);
    assert_string_equal(name, "web1");
    (void)close(fd[0]);
}

static void failure(void **state)
{
    (void)state;
    int fd[2];
    char name[CONFIG_NAME_MAX];
    struct err err = { 0 }, got = { 0 };
    assert_int_equal(pipe(fd), 0);
    (void)err_set(&err, ERR_CALLER, ENOENT, "kernel \"/x\\y\": no such\tfile");
    ready_report_failure(&fd[1], &err);
    assert_int_equal(ready_wait(fd[0], name, &got), -ENOENT);
    assert_int_equal(got.fault, ERR_CALLER);
    assert_string_equal(got.text, err.text);
    (void)close(fd[0]);
}

static void death_and_nonsense(void **state)
{
    (void)state;
    static const char *const lines[] = { "{\"ready\":true}\n", "nonsense\n", "{}\n",
                                         "{\"ready\":false,\"error\":7}\n" };
    int fd[2];
    char name[CONFIG_NAME_MAX];
    struct err err = { 0 };
    assert_int_equal(pipe(fd), 0);
    assert_int_equal(fd_write_full(fd[1], "{\"rea", 5), 0);
    (void)close(fd[1]);
    assert_int_equal(ready_wait(fd[0], name, &err), -ECHILD);
    (void)close(fd[0]);
    for (size_t i = 0; i < ARRAY_LEN(lines); i++) {
        assert_int_equal(pipe(fd), 0);
        assert_int_equal(fd_write_full(fd[1], lines[i], strlen(lines[i])), 0);
        assert_int_equal(ready_wait(fd[0], name, &err), -EPROTO);
        (void)close(fd[0]);
        (void)close(fd[1]);
    }
    /* The starter has gone: the monitor is told. */
    (void)signal(SIGPIPE, SIG_IGN);
    assert_int_equal(pipe(fd), 0);
    (void)close(fd[0]);
    assert_int_equal(ready_report(&fd[1], "a"), -EPIPE);
}

static void reasons(void **state)
{
    (void)state;
    assert_int_equal(reason_errno("ENOENT"), ENOENT);
    assert_int_equal(reason_errno("ENOSUCH"), 0);
    assert_string_equal(reason_errno_name(EBUSY), "EBUSY");
    struct err err = { 0 }, got;
    (void)err_set(&err, ERR_PEER, EBADMSG, "bytes \xff\xfe");
    json_t *json = reason_to_json(&err);
    assert_non_null(json);
    reason_from_json(json, &got);
    json_decref(json);
    assert_int_equal(got.code, EBADMSG);
    assert_int_equal(got.fault, ERR_PEER);
    assert_string_equal(got.text, "bytes ??");
    reason_from_json(NULL, &got);
    assert_int_equal(got.code, EPROTO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(success),
        cmocka_unit_test(failure),
        cmocka_unit_test(death_and_nonsense),
        cmocka_unit_test(reasons),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
