/* The console hub: scrollback, several watchers, a slow one, input with back-pressure, the log. */
#include "test.h"

#include "base/clock.h"
#include "base/fd.h"
#include "ctl/console.h"
#include "ctl/rundir.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

static struct {
    char root[64], base[RUNDIR_BASE_MAX], log[128];
    struct rundir dir;
    struct loop loop;
    struct console *console;
    char typed[100000];
    size_t typed_len, room; /* what the serial port has taken, and still takes */
} t;

static size_t input(void *ctx, const uint8_t *bytes, size_t len)
{
    (void)ctx;
    len = MIN(len, t.room);
    memcpy(t.typed + t.typed_len, bytes, len);
    t.typed_len += len;
    t.room -= len;
    return len;
}

static int setup(void **state)
{
    (void)state;
    int fd;
    memset(&t, 0, sizeof(t));
    t.dir = RUNDIR_NONE;
    (void)snprintf(t.root, sizeof(t.root), "%s/godwit-console-XXXXXX", test_tmp());
    if (!mkdtemp(t.root))
        return -1;
    (void)snprintf(t.base, sizeof(t.base), "%s/b", t.root);
    (void)snprintf(t.log, sizeof(t.log), "%s/log", t.root);
    int log_fd = open(t.log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    return rundir_claim(t.base, "vm", &t.dir, NULL) ||
           rundir_listen(&t.dir, RUNDIR_CONSOLE, &fd, NULL) || loop_init(&t.loop) ||
           console_new(&t.loop, fd, log_fd, input, NULL, &t.console, NULL);
}

static int teardown(void **state)
{
    (void)state;
    console_free(t.console);
    loop_fini(&t.loop);
    rundir_release(&t.dir, RUNDIR_KEEP_NOTHING);
    char command[128];
    (void)snprintf(command, sizeof(command), "rm -rf '%s'", t.root);
    return system(command);
}

static void settle(void)
{
    struct pollfd pfd = { .fd = t.loop.epoll_fd, .events = POLLIN };
    for (int i = 0; i < 5000 && poll(&pfd, 1, 0) > 0; i++)
        assert_int_equal(loop_once(&t.loop, 0), 0);
}

static int attach(void)
{
    int fd;
    assert_int_equal(rundir_connect(&t.dir, RUNDIR_CONSOLE, &fd, NULL), 0);
    assert_int_equal(fd_set_nonblock(fd), 0);
    settle();
    return fd;
}

static void write_guest(const char *text)
{
    console_output(t.console, (const uint8_t *)text, strlen(text));
}

/* Everything there is to read now, as a string the caller frees. */
static char *read_all(int fd)
{
    struct buf all = { 0 };
    char part[4096];
    for (;;) {
        settle();
        ssize_t n = recv(fd, part, sizeof(part), 0);
        if (n <= 0)
            break;
        buf_put(&all, part, (size_t)n);
    }
    buf_put_u8(&all, 0);
    return (char *)all.data;
}

static void expect(int fd, const char *text)
{
    char *got = read_all(fd);
    assert_string_equal(got, text);
    free(got);
}

static void scrollback_and_watchers(void **state)
{
    (void)state;
    write_guest("booting\r\n");
    int a = attach();
    expect(a, "booting\r\n");
    write_guest("login: ");
    int b = attach();
    expect(a, "login: ");
    expect(b, "booting\r\nlogin: ");
    (void)close(a);
    settle();
    write_guest("x");
    expect(b, "x");
    (void)close(b);

    char *text;
    size_t len;
    settle();
    assert_int_equal(fd_read_file(t.log, 1000, &text, &len), 0);
    assert_string_equal(text, "booting\r\nlogin: x");
    free(text);
}

static void only_the_last_is_kept(void **state)
{
    (void)state;
    char line[32];
    for (int i = 0; i < 20000; i++) {
        (void)snprintf(line, sizeof(line), "%07d\n", i);
        write_guest(line);
        if (i % 1000 == 0)
            settle();
    }
    int fd = attach();
    char *got = read_all(fd);
    assert_int_equal(strlen(got), CONSOLE_SCROLLBACK);
    assert_string_equal(got + CONSOLE_SCROLLBACK - 8, "0019999\n");
    free(got);

    /* More than a ring at once, as no serial port would. */
    uint8_t *huge = malloc(CONSOLE_SCROLLBACK * 2);
    memset(huge, 'a', CONSOLE_SCROLLBACK);
    memset(huge + CONSOLE_SCROLLBACK, 'b', CONSOLE_SCROLLBACK);
    console_output(t.console, huge, CONSOLE_SCROLLBACK * 2);
    free(huge);
    got = read_all(fd);
    assert_non_null(strstr(got, "65536 bytes lost]\r\nbbb"));
    free(got);
    (void)close(fd);
}

static void slow_watcher(void **state)
{
    (void)state;
    int slow = attach(), quick = attach();
    char line[32];
    size_t quick_bytes = 0;
    for (int i = 0; i < 200000; i++) {
        (void)snprintf(line, sizeof(line), "%07d\n", i);
        write_guest(line);
        if (i % 100 == 0) {
            char *got = read_all(quick);
            quick_bytes += strlen(got);
            free(got);
        }
    }
    char *got = read_all(quick);
    quick_bytes += strlen(got);
    free(got);
    assert_int_equal(quick_bytes, 200000 * 8);
    got = read_all(slow);
    assert_non_null(strstr(got, "bytes lost]"));
    assert_string_equal(got + strlen(got) - 8, "0199999\n");
    free(got);
    (void)close(slow);
    (void)close(quick);
}

static void input_waits_for_the_guest(void **state)
{
    (void)state;
    int a = attach(), b = attach();
    t.room = 3;
    assert_int_equal(send(a, "hello", 5, 0), 5);
    settle();
    assert_int_equal(t.typed_len, 3);
    assert_int_equal(send(b, "B", 1, 0), 1);
    settle();
    assert_int_equal(t.typed_len, 3);
    write_guest("still watching");
    expect(a, "still watching");

    t.room = 1;
    console_input_ready(t.console);
    settle();
    assert_int_equal(t.typed_len, 4);
    t.room = 1000;
    console_input_ready(t.console);
    settle();
    assert_int_equal(t.typed_len, 6);
    assert_memory_equal(t.typed, "helloB", 6);

    /* A paste larger than every buffer arrives whole and in order. */
    t.typed_len = 0;
    size_t sent = 0;
    for (int turns = 0; sent < 60000 || t.typed_len < 60000; turns++) {
        assert_true(turns < 100000);
        uint8_t bytes[700];
        for (size_t i = 0; i < sizeof(bytes); i++)
            bytes[i] = (uint8_t)((sent + i) % 251);
        if (sent < 60000) {
            ssize_t n = send(a, bytes, MIN(sizeof(bytes), 60000 - sent), MSG_DONTWAIT);
            sent += n > 0 ? (size_t)n : 0;
        }
        t.room = 16;
        console_input_ready(t.console);
        settle();
    }
    for (size_t i = 0; i < 60000; i++)
        assert_int_equal((uint8_t)t.typed[i], i % 251);
    (void)close(a);
    (void)close(b);
}

static void limits(void **state)
{
    (void)state;
    int fd[CONSOLE_CLIENTS_MAX];
    for (unsigned i = 0; i < CONSOLE_CLIENTS_MAX; i++)
        fd[i] = attach();
    int more = attach();
    char *got = read_all(more);
    assert_non_null(strstr(got, "too many"));
    free(got);
    (void)close(more);
    /* One goes while the guest takes no input: its place is free again. */
    assert_int_equal(send(fd[0], "abc", 3, 0), 3);
    settle();
    (void)close(fd[0]);
    settle();
    write_guest("y");
    more = attach();
    expect(more, "y");
    (void)close(more);
    for (unsigned i = 1; i < CONSOLE_CLIENTS_MAX; i++)
        (void)close(fd[i]);
    settle();
    write_guest("nobody");
}

int main(void)
{
#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(scrollback_and_watchers),
        T(only_the_last_is_kept),
        T(slow_watcher),
        T(input_waits_for_the_guest),
        T(limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
