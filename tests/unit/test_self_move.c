/* The monitor's side of self-migration, over socket pairs. */
#include "base/fd.h"
#include "vmm/self_move.h"

#include "test.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define ID "0123456789abcdef"
#define OTHER "fedcba9876543210"

static struct loop loop;
static struct self_move self;
static unsigned started;
static char started_id[32], started_target[300];
static int refuse;

static int allowed(void *ctx, const char *target, struct err *err)
{
    (void)ctx;
    return strcmp(target, "host2:7000") == 0 ? 0 : err_set(err, ERR_GUEST, EPERM, "not there");
}

static int start(void *ctx, const char *id, const char *target, struct err *err)
{
    (void)ctx;
    if (refuse)
        return err_set(err, ERR_CALLER, refuse, "busy");
    started++;
    (void)snprintf(started_id, sizeof(started_id), "%s", id);
    (void)snprintf(started_target, sizeof(started_target), "%s", target);
    return 0;
}

static int setup(void **state)
{
    (void)state;
    started = 0;
    refuse = 0;
    assert_int_equal(loop_init(&loop), 0);
    self_move_init(&self, &loop, &(struct self_move_calls){ .allowed = allowed, .start = start });
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    self_move_fini(&self);
    loop_fini(&loop);
    return 0;
}

static int dial(uint32_t port)
{
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
    self_move_accept(&self, pair[0], port);
    return pair[1];
}

static void turn(void)
{
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(loop_once(&loop, 0), 0);
}

static void expect(int fd, const char *want)
{
    char text[600];
    turn();
    ssize_t n = recv(fd, text, sizeof(text) - 1, 0);
    text[n > 0 ? n : 0] = '\0';
    assert_string_equal(text, want);
}

static void say(int fd, const char *text, const char *want)
{
    assert_int_equal(send(fd, text, strlen(text), 0), strlen(text));
    expect(fd, want);
}

static void test_a_move_that_fails(void **state)
{
    (void)state;
    int fd = dial(1000), other = dial(999);
    say(fd, "migrate " ID " host2:7000\n", "accepted\n");
    assert_int_equal(started, 1);
    assert_string_equal(started_id, ID);
    assert_string_equal(started_target, "host2:7000");
    say(other, "status " ID "\n", "moving\n");
    say(other, "status " OTHER "\n", "unknown\n");
    say(other, "migrate " OTHER " host2:7000\n",
        "refused a move that the guest asked for is under way\n");
    self_move_failed(&self, &(struct err){ .code = EIO, .text = "no route\nto it" });
    expect(fd, "failed no route\n");
    expect(other, "failed no route\n");
    say(other, "status " ID "\n", "failed no route\n");
    self_move_failed(&self, &(struct err){ .code = EIO, .text = "of another" });
    expect(fd, "");
    say(fd, "migrate " OTHER " host2:7000\n", "accepted\n");
    assert_int_equal(started, 2);
    (void)close(fd);
    (void)close(other);
}

static void test_a_guest_that_arrived(void **state)
{
    (void)state;
    char host[65] = "", want[80];
    (void)gethostname(host, sizeof(host) - 1);
    (void)snprintf(want, sizeof(want), "moved %s\n", host);
    int fd = dial(1000);
    self_move_arrived(&self, "");
    say(fd, "status " ID "\n", "unknown\n");
    self_move_arrived(&self, "no ticket of ours");
    say(fd, "status " ID "\n", "unknown\n");
    self_move_arrived(&self, ID);
    say(fd, "status " ID "\n", want);
    say(fd, "status " OTHER "\n", "unknown\n");
    (void)close(fd);
}

static void test_refused(void **state)
{
    (void)state;
    int fd = dial(1000);
    say(fd, "migrate " ID " host3:7000\n", "refused not there\n");
    refuse = EBUSY;
    say(fd, "migrate " ID " host2:7000\n", "refused busy\n");
    static const char *const bad[] = { "\n",
                                       "migrate\n",
                                       "migrate " ID "\n",
                                       "migrate  " ID " host2:7000\n",
                                       "migrate " ID " host2:7000 \n",
                                       "migrate 0123456789abcde host2:7000\n",
                                       "migrate 0123456789ABCDEF host2:7000\n",
                                       "status " ID " x\n",
                                       "status\n",
                                       "reboot\n" };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        say(fd, bad[i], "refused no such request\n");
    say(fd, "migrate " ID " host2:7000\x01\n", "refused no address\n");
    (void)close(fd);

    /* A program that is not root's. */
    fd = dial(1024);
    say(fd, "migrate " ID " host2:7000\n", "refused only root of the guest is heard\n");
    (void)close(fd);
    assert_int_equal(started, 0);
    assert_int_equal(self.phase, SELF_MOVE_NONE);
}

static void test_limits(void **state)
{
    (void)state;
    static char flood[SELF_MOVE_LINE_MAX];
    int fds[SELF_MOVE_CONNS_MAX + 1];
    for (unsigned i = 0; i <= SELF_MOVE_CONNS_MAX; i++)
        fds[i] = dial(1000);
    char byte;
    assert_int_equal(recv(fds[SELF_MOVE_CONNS_MAX], &byte, 1, 0), 0); /* one too many */
    memset(flood, 'x', sizeof(flood));
    assert_int_equal(send(fds[0], flood, sizeof(flood), 0), sizeof(flood));
    turn();
    assert_int_equal(recv(fds[0], &byte, 1, 0), 0);
    assert_int_equal(send(fds[1], "status " ID "\nstatus " ID "\n", 48, 0), 48);
    turn();
    assert_int_equal(recv(fds[1], &byte, 1, 0), 0);
    assert_int_equal(send(fds[2], "status\0" ID "\n", 24, 0), 24);
    turn();
    assert_int_equal(recv(fds[2], &byte, 1, 0), 0);
    (void)close(fds[0]);
    fds[0] = dial(1000); /* there is room again */
    say(fds[0], "status " ID "\n", "unknown\n");
    for (unsigned i = 0; i <= SELF_MOVE_CONNS_MAX; i++)
        (void)close(fds[i]);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_a_move_that_fails),
        TEST(test_a_guest_that_arrived),
        TEST(test_refused),
        TEST(test_limits),
    };
    return cmocka_run_group_tests_name("self_move", tests, NULL, NULL);
}
