/* Owner records: what a host answers about a token while its monitor lives, after it died, and after another
 * monitor has taken the name. */
#include "test.h"

#include "vmm/records.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static char root[64];
static const uint8_t first[MOVE_TOKEN_BYTES] = { 1 }, second[MOVE_TOKEN_BYTES] = { 2 };

static int setup(void **state)
{
    (void)state;
    (void)snprintf(root, sizeof(root), "%s/godwit-records-XXXXXX", test_tmp());
    return mkdtemp(root) ? 0 : -1;
}

static int teardown(void **state)
{
    char command[128];
    (void)state;
    (void)snprintf(command, sizeof(command), "rm -rf '%s'", root);
    return system(command);
}

static enum move_knows ask(const uint8_t token[MOVE_TOKEN_BYTES])
{
    enum move_knows knows;
    struct err err;
    assert_int_equal(records_lookup(root, token, &knows, &err), 0);
    return knows;
}

/* A monitor of "vm" that owns its guest by `first`, and is killed once `pipe` is closed. */
static pid_t start_owner(int *ret_pipe)
{
    int ready[2], stay[2];
    char byte;
    assert_int_equal(pipe(ready), 0);
    assert_int_equal(pipe(stay), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct rundir dir = RUNDIR_NONE;
        (void)close(stay[1]);
        if (rundir_claim(root, "vm", &dir, NULL) ||
            records_write(&dir, RECORD_HERE, first, NULL, NULL, NULL) ||
            write(ready[1], "", 1) != 1)
            _exit(1);
        (void)!read(stay[0], &byte, 1);
        _exit(0); /* as SIGKILL would: the directory stays */
    }
    (void)close(ready[1]);
    (void)close(stay[0]);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    (void)close(ready[0]);
    *ret_pipe = stay[1];
    return pid;
}

static void test_the_dead_stay_dead(void **state)
{
    struct rundir dir = RUNDIR_NONE;
    struct err err;
    int stay, status;
    (void)state;

    pid_t pid = start_owner(&stay);
    assert_int_equal(ask(first), KNOWS_COMMITTED);
    assert_int_equal(ask(second), KNOWS_NOTHING);
    (void)close(stay);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(ask(first), KNOWS_DIED);

    /* Another monitor of that name is not the guest's. */
    assert_int_equal(rundir_claim(root, "vm", &dir, &err), 0);
    assert_int_equal(ask(first), KNOWS_DIED);
    assert_int_equal(records_write(&dir, RECORD_HERE, second, NULL, NULL, &err), 0);
    assert_int_equal(ask(first), KNOWS_DIED);
    assert_int_equal(ask(second), KNOWS_COMMITTED);

    /* One that was handed on has run here: whoever brought it need not wait. */
    assert_int_equal(records_write(&dir, RECORD_HANDED, NULL, NULL, "elsewhere:1", &err), 0);
    assert_int_equal(ask(first), KNOWS_DIED);
    assert_int_equal(ask(second), KNOWS_COMMITTED);
    rundir_release(&dir, RUNDIR_KEEP_NOTHING);
    assert_int_equal(ask(first), KNOWS_NOTHING);
}

/* Whom to ask after a crash: only where the record says that there is somebody. */
static void test_handed_to(void **state)
{
    static const uint8_t store[MOVE_STORE_BYTES] = { 0xab, 9, [15] = 0xff };
    struct rundir dir = RUNDIR_NONE;
    struct records_handed handed;
    struct err err;
    (void)state;

    assert_int_equal(rundir_claim(root, "vm", &dir, &err), 0);
    assert_int_equal(records_handed(&dir, &handed, &err), -ENOENT);
    assert_int_equal(records_write(&dir, RECORD_HERE, second, NULL, NULL, &err), 0);
    assert_int_equal(records_handed(&dir, &handed, &err), -EALREADY);
    assert_int_equal(records_write(&dir, RECORD_HANDED, first, store, "[::1]:7000", &err), 0);
    assert_int_equal(records_handed(&dir, &handed, &err), 0);
    assert_memory_equal(handed.token, first, sizeof(first));
    assert_memory_equal(handed.store, store, sizeof(store));
    assert_string_equal(handed.peer, "[::1]:7000");

    static const char *const bad[] = {
        "{}",
        "{\"owner\": \"handed-over\", \"peer\": \"a:1\", \"token\": \"00\", \"store\": \"00\"}",
        "{\"owner\": \"handed-over\", \"token\": \"01000000000000000000000000000000\", "
        "\"store\": \"01000000000000000000000000000000\"}",
        "{\"owner\": \"handed-over\", \"peer\": \"a:1\", \"token\": "
        "\"zz000000000000000000000000000000\", \"store\": \"01000000000000000000000000000000\"}",
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        json_t *record = json_loads(bad[i], 0, NULL);
        assert_non_null(record);
        assert_int_equal(rundir_owner_write(&dir, record, &err), 0);
        assert_int_equal(records_handed(&dir, &handed, &err), -EBADMSG);
        json_decref(record);
    }
    rundir_release(&dir, RUNDIR_KEEP_NOTHING);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_the_dead_stay_dead, setup, teardown),
        cmocka_unit_test_setup_teardown(test_handed_to, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
