/* Runtime directories: names, claims against the living and the dead, records, long paths. */
#include "test.h"

#include "base/fd.h"
#include "ctl/rundir.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

static char root[64], base[RUNDIR_BASE_MAX];

static int setup(void **state)
{
    (void)state;
    (void)snprintf(root, sizeof(root), "%s/godwit-rundir-XXXXXX", test_tmp());
    if (!mkdtemp(root))
        return -1;
    (void)snprintf(base, sizeof(base), "%s/base", root);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    char command[128];
    (void)snprintf(command, sizeof(command), "rm -rf '%s'", root);
    return system(command);
}

static bool exists(const char *file)
{
    char path[2048];
    (void)snprintf(path, sizeof(path), "%s/%s", base, file);
    return access(path, F_OK) == 0;
}

static void touch(const char *file, const char *text)
{
    char path[2048];
    (void)snprintf(path, sizeof(path), "%s/%s", base, file);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    (void)fputs(text, f);
    (void)fclose(f);
}

static void names(void **state)
{
    (void)state;
    static const char *const good[] = { "a", "web1", "A-b_c.d", "0" };
    static const char *const bad[] = {
        "",         ".",
        "..",       ".a",
        "-a",       "a/b",
        "a b",      "a\nb",
        "\xc3\xa9", "0123456789012345678901234567890123456789012345678901234567890123"
    };
    for (size_t i = 0; i < ARRAY_LEN(good); i++)
        assert_int_equal(rundir_check_name(good[i], NULL), 0);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct err err = { 0 };
        assert_int_equal(rundir_check_name(bad[i], &err), -EINVAL);
        assert_int_equal(err.fault, ERR_CALLER);
    }
}

static void claim_and_release(void **state)
{
    (void)state;
    struct rundir dir = RUNDIR_NONE, second = RUNDIR_NONE;
    struct err err = { 0 };

    assert_int_equal(rundir_open(base, "a", &second, &err), -ENOENT);
    assert_int_equal(rundir_claim(base, "a", &dir, &err), 0);
    assert_true(exists("a/lock"));

    char pid[16];
    (void)snprintf(pid, sizeof(pid), "%d", (int)getpid());
    assert_int_equal(rundir_claim(base, "a", &second, &err), -EEXIST);
    assert_non_null(strstr(err.text, "the name a "));
    assert_non_null(strstr(err.text, pid));
    assert_int_equal(rundir_reclaim(base, "a", &err), -EBUSY);

    assert_int_equal(rundir_open(base, "a", &second, &err), 0);
    rundir_close(&second);

    struct rundir_entry *list;
    size_t count;
    assert_int_equal(rundir_list(base, &list, &count, &err), 0);
    assert_int_equal(count, 1);
    assert_string_equal(list[0].name, "a");
    assert_true(list[0].alive);
    assert_int_equal(list[0].pid, getpid());
    free(list);

    rundir_release(&dir, RUNDIR_KEEP_NOTHING);
    assert_false(exists("a"));
    assert_int_equal(rundir_list(base, &list, &count, &err), 0);
    assert_int_equal(count, 0);
    free(list);
}

static void claim_after_death(void **state)
{
    (void)state;
    struct rundir dir = RUNDIR_NONE;
    struct err err = { 0 };
    int up[2];

    assert_int_equal(pipe(up), 0);
    pid_t child = fork();
    if (child == 0) {
        json_t *record = json_pack("{s:s}", "state", "running");
        bool good =
            rundir_claim(base, "a", &dir, NULL) == 0 && rundir_owner_write(&dir, record, NULL) == 0;
        int fd;
        good = good && rundir_listen(&dir, RUNDIR_CONTROL, &fd, NULL) == 0;
        (void)!write(up[1], good ? "y" : "n", 1);
        for (;;)
            (void)pause();
    }
    char c = 0;
    assert_int_equal(read(up[0], &c, 1), 1);
    assert_int_equal(c, 'y');
    assert_int_equal(rundir_claim(base, "a", &dir, &err), -EEXIST);
    assert_int_equal(kill(child, SIGKILL), 0);
    assert_int_equal(waitpid(child, NULL, 0), child);

    assert_int_equal(rundir_open(base, "a", &dir, &err), -ENOENT);
    assert_non_null(strstr(err.text, "died"));
    struct rundir_entry *list;
    size_t count;
    assert_int_equal(rundir_list(base, &list, &count, &err), 0);
    assert_int_equal(count, 1);
    assert_false(list[0].alive);
    free(list);

    /* The claim clears the socket away but keeps the record for its new owner to read. */
    assert_int_equal(rundir_claim(base, "a", &dir, &err), 0);
    assert_false(exists("a/control.sock"));
    json_t *record;
    assert_int_equal(rundir_owner_read(&dir, &record, &err), 0);
    assert_string_equal(json_string_value(json_object_get(record, "state")), "running");
    json_decref(record);

    rundir_release(&dir, RUNDIR_KEEP_RECORD);
    assert_true(exists("a/owner.json"));
    assert_int_equal(rundir_reclaim(base, "a", &err), 0);
    assert_false(exists("a"));
}

static void rename_takes_what_is_dead(void **state)
{
    (void)state;
    struct rundir dir = RUNDIR_NONE, other = RUNDIR_NONE;
    struct err err = { 0 };
    int listener, client;
    json_t *record = json_pack("{s:s}", "state", "uncertain");

    assert_int_equal(rundir_claim(base, "tmp", &dir, &err), 0);
    assert_int_equal(rundir_listen(&dir, RUNDIR_CONTROL, &listener, &err), 0);
    assert_int_equal(rundir_claim(base, "web", &other, &err), 0);
    assert_int_equal(rundir_owner_write(&other, record, &err), 0);
    json_decref(record);

    assert_int_equal(rundir_rename(&dir, "web", &err), -EEXIST);
    assert_string_equal(dir.name, "tmp");
    rundir_close(&other); /* as death does */
    assert_int_equal(rundir_rename(&dir, "web", &err), 0);
    assert_false(exists("tmp"));
    assert_int_equal(rundir_owner_read(&dir, &record, &err), 0);
    assert_string_equal(json_string_value(json_object_get(record, "state")), "uncertain");
    json_decref(record);

    assert_int_equal(rundir_open(base, "web", &other, &err), 0);
    assert_int_equal(rundir_connect(&other, RUNDIR_CONTROL, &client, &err), 0);
    (void)close(client);
    (void)close(listener);
    rundir_close(&other);
    rundir_release(&dir, RUNDIR_KEEP_NOTHING);
}

static void damaged_records(void **state)
{
    (void)state;
    struct rundir dir = RUNDIR_NONE;
    struct err err = { 0 };
    json_t *record = NULL;
    static const char *const bad[] = { "", "{", "[1]", "{\"a\":", "7" };

    assert_int_equal(rundir_claim(base, "a", &dir, &err), 0);
    assert_int_equal(rundir_owner_read(&dir, &record, &err), -ENOENT);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        touch("a/owner.json", bad[i]);
        assert_int_equal(rundir_owner_read(&dir, &record, &err), -EBADMSG);
    }
    rundir_release(&dir, RUNDIR_KEEP_NOTHING);
}

static void long_paths(void **state)
{
    (void)state;
    struct rundir dir = RUNDIR_NONE, open_dir = RUNDIR_NONE;
    struct err err = { 0 };
    char long_base[RUNDIR_BASE_MAX];
    int listener, client;

    (void)snprintf(long_base, sizeof(long_base), "%s/%0150d", root, 0);
    assert_int_equal(rundir_claim(long_base, "a", &dir, &err), 0);
    assert_int_equal(rundir_listen(&dir, RUNDIR_CONTROL, &listener, &err), 0);
    assert_int_equal(rundir_open(long_base, "a", &open_dir, &err), 0);
    assert_int_equal(rundir_connect(&open_dir, RUNDIR_CONTROL, &client, &err), 0);
    int served = accept(listener, NULL, NULL);
    assert_true(served >= 0);
    (void)close(served);
    (void)close(client);
    (void)close(listener);
    rundir_close(&open_dir);
    rundir_release(&dir, RUNDIR_KEEP_NOTHING);

    char given[2000];
    memset(given, 'x', sizeof(given) - 1);
    given[sizeof(given) - 1] = '\0';
    assert_int_equal(rundir_base(given, long_base, &err), -ENAMETOOLONG);
}

static void unsafe_base(void **state)
{
    (void)state;
    struct rundir dir = RUNDIR_NONE;
    struct err err = { 0 };

    assert_int_equal(mkdir(base, 0700), 0);
    assert_int_equal(chmod(base, 0777), 0);
    assert_int_equal(rundir_claim(base, "a", &dir, &err), -EPERM);
    assert_false(exists("a"));
    assert_int_equal(rundir_claim("/nowhere/at/all", "a", &dir, &err), -ENOENT);
}

int main(void)
{
#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(names),
        T(claim_and_release),
        T(claim_after_death),
        T(rename_takes_what_is_dead),
        T(damaged_records),
        T(long_paths),
        T(unsafe_base),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
