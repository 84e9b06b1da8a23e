/* Memory promised to guests: what others are still to get is not promised again, and the dead get nothing. */
#include "test.h"

#include "ctl/promise.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>

#define MIB (UINT64_C(1) << 20)

static char root[64], base[RUNDIR_BASE_MAX];
static struct rundir a, b;

static int setup(void **state)
{
    (void)state;
    struct err err;
    (void)snprintf(root, sizeof(root), "%s/godwit-promise-XXXXXX", test_tmp());
    if (!mkdtemp(root))
        return -1;
    (void)snprintf(base, sizeof(base), "%s/base", root);
    return rundir_claim(base, "a", &a, &err) || rundir_claim(base, "b", &b, &err);
}

static int teardown(void **state)
{
    (void)state;
    char command[128];
    rundir_close(&a);
    rundir_close(&b);
    (void)snprintf(command, sizeof(command), "rm -rf '%s'", root);
    return system(command);
}

static void make(const struct rundir *dir, uint64_t bytes, enum promise_how how,
                 struct host_memory *ret)
{
    struct err err;
    assert_int_equal(promise_make(dir, bytes, how, ret, &err), 0);
}

static uint64_t promised_to_others_than(const struct rundir *dir)
{
    struct host_memory memory;
    make(dir, 64 * MIB, PROMISE_LOOK, &memory);
    return memory.promised_bytes;
}

static void room(void **state)
{
    (void)state;
    assert_true(host_memory_fits(&(struct host_memory){ 10, 0 }, 10));
    assert_false(host_memory_fits(&(struct host_memory){ 10, 0 }, 11));
    assert_true(host_memory_fits(&(struct host_memory){ 10, 4 }, 6));
    assert_false(host_memory_fits(&(struct host_memory){ 10, 4 }, 7));
    assert_false(host_memory_fits(&(struct host_memory){ 10, UINT64_MAX }, 1));
    assert_true(host_memory_fits(&(struct host_memory){ UINT64_MAX, UINT64_MAX }, UINT64_MAX));
    uint64_t available = host_memory_available();
    assert_true(available > MIB && available < UINT64_C(1) << 60);
}

static void others_count_and_ones_own_does_not(void **state)
{
    (void)state;
    struct host_memory memory;
    make(&a, 64 * MIB, PROMISE_IF_FREE, &memory);
    assert_int_equal(memory.promised_bytes, 0);
    assert_int_equal(promised_to_others_than(&a), 0);
    assert_int_equal(promised_to_others_than(&b), 64 * MIB);
    promise_withdraw(&a);
    assert_int_equal(promised_to_others_than(&b), 0);
    promise_withdraw(&a);
}

static void there_is_no_more_than_there_is(void **state)
{
    (void)state;
    struct host_memory memory;
    uint64_t most = host_memory_available() / 8 * 5;
    make(&a, UINT64_C(1) << 60, PROMISE_IF_FREE, &memory);
    assert_false(host_memory_fits(&memory, UINT64_C(1) << 60));
    assert_int_equal(promised_to_others_than(&b), 0); /* refused, so nothing is held */

    make(&a, most, PROMISE_IF_FREE, &memory);
    assert_true(host_memory_fits(&memory, most));
    make(&b, most, PROMISE_LOOK, &memory);
    assert_false(host_memory_fits(&memory, most));
    make(&b, most, PROMISE_IF_FREE, &memory);
    assert_false(host_memory_fits(&memory, most));
    assert_int_equal(promised_to_others_than(&a), 0);

    make(&b, most, PROMISE_ANYWAY, &memory);
    assert_int_equal(promised_to_others_than(&a), most);
}

static void what_has_come_is_not_to_come(void **state)
{
    (void)state;
    struct err err;
    struct host_memory memory;
    int fd = memfd_create("guest-ram", MFD_CLOEXEC);
    assert_int_equal(ftruncate(fd, 64 * MIB), 0);
    make(&a, 64 * MIB, PROMISE_IF_FREE, &memory);
    assert_int_equal(promise_kept_in(&a, 64 * MIB, fd, &err), 0);
    assert_int_equal(promised_to_others_than(&b), 64 * MIB);
    assert_int_equal(fallocate(fd, 0, 0, 16 * MIB), 0);
    assert_int_equal(promised_to_others_than(&b), 48 * MIB);
    assert_int_equal(ftruncate(fd, 32 * MIB), 0); /* not the memory that was meant */
    assert_int_equal(promised_to_others_than(&b), 64 * MIB);
    (void)close(fd);
    assert_int_equal(promised_to_others_than(&b), 64 * MIB);
}

static void a_name_that_changes_takes_its_promise_along(void **state)
{
    (void)state;
    struct err err;
    struct host_memory memory;
    make(&a, 64 * MIB, PROMISE_IF_FREE, &memory);
    assert_int_equal(rundir_rename(&a, "c", &err), 0);
    assert_int_equal(promised_to_others_than(&b), 64 * MIB);
    assert_int_equal(promised_to_others_than(&a), 0);
    rundir_release(&a, RUNDIR_KEEP_NOTHING);
    assert_int_equal(promised_to_others_than(&b), 0);
}

static void the_dead_are_promised_nothing(void **state)
{
    (void)state;
    struct rundir dir;
    struct err err;
    int ready[2];
    char byte;
    assert_int_equal(pipe(ready), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct host_memory memory;
        rundir_close(&a); /* else the child would hold the locks as well */
        rundir_close(&b);
        bool made = rundir_claim(base, "c", &dir, &err) == 0 &&
                    promise_make(&dir, 64 * MIB, PROMISE_IF_FREE, &memory, &err) == 0;
        if (!made || write(ready[1], "", 1) != 1)
            _exit(1);
        (void)pause();
        _exit(0);
    }
    (void)close(ready[1]);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    (void)close(ready[0]);
    assert_int_equal(promised_to_others_than(&a), 64 * MIB);
    assert_int_equal(kill(child, SIGKILL), 0);
    assert_int_equal(waitpid(child, NULL, 0), child);
    assert_int_equal(promised_to_others_than(&a), 0);
}

static void nonsense_is_no_promise(void **state)
{
    (void)state;
    static const char *const bad[] = { "", "x", "12", "12 x", "promise 1 2" };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        char path[2048];
        assert_int_equal(rundir_path(&a, "promise", path, sizeof(path)), 0);
        FILE *f = fopen(path, "w");
        assert_non_null(f);
        (void)fputs(bad[i], f);
        (void)fclose(f);
        assert_int_equal(promised_to_others_than(&b), 0);
    }
}

int main(void)
{
#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(room),
        T(others_count_and_ones_own_does_not),
        T(there_is_no_more_than_there_is),
        T(what_has_come_is_not_to_come),
        T(a_name_that_changes_takes_its_promise_along),
        T(the_dead_are_promised_nothing),
        T(nonsense_is_no_promise),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
