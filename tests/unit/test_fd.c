/*
 * Whole reads and writes, and files that are replaced in one piece.
 *
 * The linker puts the functions below between fd.c and the C library (--wrap): they write down the
 * order of the calls that make a replacement safe, and fail the one they are told to.
 */
#include "base/fd.h"
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static struct {
    bool on;
    char order[16]; /* w write, f fsync of a file, d fsync of a directory, r rename */
    int fail_at;    /* index into `order`; -1 = none */
    int code;
    size_t write_most; /* of one write; 0 = no limit */
    int interrupts;    /* this many reads or writes fail with EINTR first */
} calls;

static int note(char what)
{
    size_t n = strlen(calls.order);
    if (!calls.on || n + 1 >= sizeof(calls.order))
        return 0;
    calls.order[n] = what;
    if (calls.fail_at != (int)n)
        return 0;
    errno = calls.code;
    return -1;
}

static bool interrupted(void)
{
    if (!calls.on || calls.interrupts == 0)
        return false;
    calls.interrupts--;
    errno = EINTR;
    return true;
}

int __real_fsync(int fd);
int __real_rename(const char *from, const char *to);
ssize_t __real_write(int fd, const void *buf, size_t len);
ssize_t __real_read(int fd, void *buf, size_t len);
int __wrap_fsync(int fd);
int __wrap_rename(const char *from, const char *to);
ssize_t __wrap_write(int fd, const void *buf, size_t len);
ssize_t __wrap_read(int fd, void *buf, size_t len);

int __wrap_fsync(int fd)
{
    struct stat st;
    assert_int_equal(fstat(fd, &st), 0);
    return note(S_ISDIR(st.st_mode) ? 'd' : 'f') ? -1 : __real_fsync(fd);
}

int __wrap_rename(const char *from, const char *to)
{
    return note('r') ? -1 : __real_rename(from, to);
}

ssize_t __wrap_write(int fd, const void *buf, size_t len)
{
    if (interrupted() || note('w'))
        return -1;
    return __real_write(fd, buf, calls.on && calls.write_most ? MIN(len, calls.write_most) : len);
}

ssize_t __wrap_read(int fd, void *buf, size_t len)
{
    return interrupted()
               ? -1
               : __real_read(fd, buf,
                             calls.on && calls.write_most ? MIN(len, calls.write_most) : len);
}

static char dir[64];

static const char *in_dir(const char *name)
{
    static char path[128];
    (void)snprintf(path, sizeof(path), "%s/%s", dir, name);
    return path;
}

static int make_dir(void **state)
{
    (void)state;
    (void)snprintf(dir, sizeof(dir), "%s/godwit-fd-XXXXXX", test_tmp());
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
    (void)state;
    static const char *const names[] = { "state", "state.new", "big" };
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        (void)unlink(in_dir(names[i]));
    return rmdir(dir);
}

static int calls_off(void **state)
{
    (void)state;
    memset(&calls, 0, sizeof(calls));
    return 0;
}

static void assert_holds(const char *name, const char *want)
{
    char *text = NULL;
    size_t len = 0;
    assert_int_equal(fd_read_file(in_dir(name), 4096, &text, &len), 0);
    assert_int_equal(len, strlen(want));
    assert_string_equal(text, want);
    free(text);
}

static void replace_is_durable_before_it_shows(void **state)
{
    (void)state;
    assert_int_equal(fd_replace_file(in_dir("state"), "old", 3, NULL), 0);
    calls.on = true;
    calls.fail_at = -1;
    assert_int_equal(fd_replace_file(in_dir("state"), "newer", 5, NULL), 0);
    assert_string_equal(calls.order, "wfrd");
    calls.on = false;
    assert_holds("state", "newer");
    assert_int_equal(access(in_dir("state.new"), F_OK), -1);
}

/* Whatever step fails, the old file is whole (the new one, once renamed), the error names the file, and
 * no temporary file stays. */
static void replace_fails_cleanly_at_every_step(void **state)
{
    (void)state;
    for (int step = 0; step < 4; step++) {
        struct err err = { 0 };
        assert_int_equal(fd_replace_file(in_dir("state"), "old", 3, NULL), 0);
        memset(&calls, 0, sizeof(calls));
        calls.on = true;
        calls.fail_at = step;
        calls.code = ENOSPC;
        assert_int_equal(fd_replace_file(in_dir("state"), "newer", 5, &err),
                         step < 3 ? -ENOSPC : -EINPROGRESS);
        assert_int_equal(err.code, ENOSPC);
        calls.on = false;
        assert_non_null(strstr(err.text, in_dir("state")));
        assert_int_equal(err.fault, ERR_HOST);
        assert_holds("state", step < 3 ? "old" : "newer");
        assert_int_equal(access(in_dir("state.new"), F_OK), -1);
    }
}

static void replace_names_a_missing_directory(void **state)
{
    (void)state;
    struct err err = { 0 };
    assert_int_equal(fd_replace_file("/nonexistent/dir/x", "a", 1, &err), -ENOENT);
    assert_non_null(strstr(err.text, "/nonexistent/dir/x"));
    char path[PATH_MAX + 10];
    memset(path, 'a', sizeof(path) - 1);
    path[sizeof(path) - 1] = '\0';
    assert_int_equal(fd_replace_file(path, "a", 1, &err), -ENAMETOOLONG);
}

static void short_and_interrupted_calls_go_on(void **state)
{
    (void)state;
    char text[1000], back[1000];
    for (size_t i = 0; i < sizeof(text); i++)
        text[i] = (char)(i * 7);
    CLEANUP_FD int fd = open(in_dir("big"), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    calls.on = true;
    calls.fail_at = -1;
    calls.write_most = 300;
    calls.interrupts = 3;
    assert_int_equal(fd_write_full(fd, text, sizeof(text)), 0);
    assert_int_equal(calls.interrupts, 0);
    assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
    calls.interrupts = 3;
    assert_int_equal(fd_read_full(fd, back, sizeof(back)), 0);
    assert_int_equal(calls.interrupts, 0);
    assert_memory_equal(text, back, sizeof(text));
    assert_int_equal(fd_read_full(fd, back, 1), -ENODATA);
    assert_int_equal(fd_pread_full(fd, back, 10, 990), 0);
    assert_memory_equal(text + 990, back, 10);
    assert_int_equal(fd_pread_full(fd, back, 11, 990), -ENODATA);
    assert_int_equal(fd_read_full(-1, back, 1), -EBADF);
    assert_int_equal(fd_write_full(-1, text, 1), -EBADF);
}

static void read_file_respects_the_limit(void **state)
{
    (void)state;
    char *text = NULL;
    size_t len = 0;
    for (size_t size = 0; size < 20; size++) {
        assert_int_equal(fd_replace_file(in_dir("big"), "0123456789abcdefghij", size, NULL), 0);
        for (size_t most = 0; most < 20; most++) {
            int rc = fd_read_file(in_dir("big"), most, &text, &len);
            assert_int_equal(rc, size <= most ? 0 : -EFBIG);
            if (!rc) {
                assert_int_equal(len, size);
                assert_int_equal(text[size], '\0');
                free(text);
            }
        }
    }
    assert_int_equal(fd_read_file("/nonexistent", 10, &text, &len), -ENOENT);
    assert_int_equal(fd_read_file("/tmp", 10, &text, &len), -EISDIR);
}

/* Files that say size 0 and have contents all the same. */
static void read_file_of_proc(void **state)
{
    (void)state;
    char *text = NULL;
    size_t len = 0;
    assert_int_equal(fd_read_file("/proc/self/maps", 1 << 20, &text, &len), 0);
    assert_true(len > 100 && strlen(text) == len);
    free(text);
    assert_int_equal(fd_read_file("/proc/self/maps", 64, &text, &len), -EFBIG);
    assert_int_equal(fd_read_file("/dev/zero", 10000, &text, &len), -EINVAL);
}

static void *open_fifo_writer(void *path)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    fd_close(&fd);
    return NULL;
}

/* A pipe in place of a file must not hang whoever reads it. */
static void read_file_refuses_a_fifo(void **state)
{
    (void)state;
    char *text = NULL;
    size_t len = 0;
    char path[128];
    (void)snprintf(path, sizeof(path), "%s/fifo", dir);
    assert_int_equal(mkfifo(path, 0600), 0);
    pthread_t writer; /* so that an open() that waits for one ends, and the test fails, not hangs */
    assert_int_equal(pthread_create(&writer, NULL, open_fifo_writer, path), 0);
    int rc = fd_read_file(path, 10, &text, &len);
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    assert_int_equal(pthread_join(writer, NULL), 0);
    fd_close(&fd);
    (void)unlink(path);
    assert_int_equal(rc, -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(replace_is_durable_before_it_shows, calls_off),
        cmocka_unit_test_teardown(replace_fails_cleanly_at_every_step, calls_off),
        cmocka_unit_test(replace_names_a_missing_directory),
        cmocka_unit_test_teardown(short_and_interrupted_calls_go_on, calls_off),
        cmocka_unit_test(read_file_respects_the_limit),
        cmocka_unit_test(read_file_of_proc),
        cmocka_unit_test(read_file_refuses_a_fifo),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
