/* What the agent keeps of a guest's clock and work, and how it serves it, also to those who mean it ill. */
#include "../../guest/agent/observe.h"

#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MS 1000000ull
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static struct observe observe;

static void test_configuration(void **state)
{
    (void)state;
    struct guest_config c;
    const char *why;
    assert_int_equal(guest_config_parse(&c, "limit 5\n", &why), 0);
    assert_int_equal(c.observe_tcp, 0); /* nothing that is not allowed */
    assert_int_equal(c.observe_vsock, 0);
    assert_int_equal(c.observe_period_ms, 2);
    assert_int_equal(observe_run(&c), 2);
    assert_int_equal(
        guest_config_parse(&c, "observe tcp 7099 # all\nobserve vsock 65535\nobserve-period 100",
                           &why),
        0);
    assert_int_equal(c.observe_tcp, 7099);
    assert_int_equal(c.observe_vsock, 65535);
    assert_int_equal(c.observe_period_ms, 100);
    static const char *const bad[] = { "observe",
                                       "observe tcp",
                                       "observe udp 1",
                                       "observe tcp 0",
                                       "observe tcp 65536",
                                       "observe tcp -1",
                                       "observe tcp 1 2",
                                       "observe 7099",
                                       "observe-period",
                                       "observe-period 0",
                                       "observe-period 101",
                                       "observe-period 5 5",
                                       "observe-period 5ms",
                                       "observe tcp 99999999999999999999" };
    for (size_t i = 0; i < COUNT(bad); i++)
        if (guest_config_parse(&c, bad[i], &why) != 1)
            fail_msg("'%s' was taken", bad[i]);
}

static void test_largest_gap_of_each_tenth(void **state)
{
    (void)state;
    struct observe_clock clock = { 0 };
    uint64_t at, gap, now = 1000 * MS, rows = 0;
    assert_false(observe_clock_turn(&clock, now, &at, &gap));
    /* 5 ms turns, one of them 23 ms late. */
    for (; now < 1099 * MS; now += 5 * MS)
        assert_false(observe_clock_turn(&clock, now + (now == 1050 * MS ? 3 * MS : 0), &at, &gap));
    assert_true(observe_clock_turn(&clock, 1101 * MS, &at, &gap));
    assert_int_equal(gap, 8 * MS);
    assert_int_equal(at, 1053 * MS);
    /* A stall over many tenths is one row, and the next tenth begins without it. */
    assert_true(observe_clock_turn(&clock, 4350 * MS, &at, &gap));
    assert_int_equal(gap, 3249 * MS);
    assert_int_equal(at, 4350 * MS);
    for (now = 4355 * MS; now <= 4600 * MS; now += 5 * MS)
        if (observe_clock_turn(&clock, now, &at, &gap)) {
            rows++;
            assert_int_equal(gap, 5 * MS);
        }
    assert_int_equal(rows, 3);
}

static void test_keeps_the_last(void **state)
{
    (void)state;
    uint64_t row[OBSERVE_COLUMNS];
    observe_ring_init(&observe.clock);
    assert_false(observe_ring_get(&observe.clock, 0, row));
    for (uint64_t i = 0; i < OBSERVE_ROWS + 5; i++)
        observe_ring_put(&observe.clock, i, 2 * i, 3 * i);
    assert_int_equal(observe_ring_count(&observe.clock), OBSERVE_ROWS + 5);
    assert_false(observe_ring_get(&observe.clock, 4, row));
    assert_true(observe_ring_get(&observe.clock, 5, row));
    assert_int_equal(row[0], 5);
    assert_true(observe_ring_get(&observe.clock, OBSERVE_ROWS + 4, row));
    assert_int_equal(row[2], 3 * (OBSERVE_ROWS + 4));
    assert_false(observe_ring_get(&observe.clock, OBSERVE_ROWS + 5, row));
    assert_false(observe_ring_get(&observe.clock, UINT64_MAX, row));
}

static void test_work(void **state)
{
    (void)state;
    struct observe_work a, b;
    assert_true(observe_work_init(&a) && observe_work_init(&b));
    observe_work_do(&a, 300);
    for (unsigned i = 0; i < 100; i++)
        observe_work_do(&b, 3);
    assert_int_equal(a.at, 300);
    assert_int_equal(a.mixed, b.mixed); /* the same work, however it is cut */
    unsigned written = 0;
    for (unsigned page = 0; page < 64; page++)
        written += a.memory[page * 4096] != 0x5a || a.memory[page * 4096 + 1] != 0x5a;
    assert_int_equal(written, 8);
    assert_true(observe_work_calibrate(&a, MS) >= 1);
    /* A twentieth of the time at most, a burst a second at least, a tenth of a second at its normal pace. */
    assert_int_equal(observe_work_rest_ns(MS), 99 * MS);
    assert_int_equal(observe_work_rest_ns(5 * MS), 95 * MS);
    assert_int_equal(observe_work_rest_ns(20 * MS), 380 * MS);
    assert_int_equal(observe_work_rest_ns(5000 * MS), 1000 * MS);
    assert_int_equal(observe_work_rest_ns(UINT64_MAX), 1000 * MS);
}

/* ------------------------------------------------------------------------------------------- serving */

static int listen_fd, stop[2];
static struct sockaddr_in where;
static pthread_t thread;

static void *serve(void *arg)
{
    observe_serve(arg, listen_fd, -1, stop[0]);
    return NULL;
}

static int setup(void **state)
{
    (void)state;
    socklen_t len = sizeof(where);
    observe.period_ns = 5 * MS;
    observe_ring_init(&observe.clock);
    observe_ring_init(&observe.work);
    where =
        (struct sockaddr_in){ .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    return bind(listen_fd, (struct sockaddr *)&where, len) || listen(listen_fd, 64) ||
           getsockname(listen_fd, (struct sockaddr *)&where, &len) || pipe(stop) ||
           pthread_create(&thread, NULL, serve, &observe);
}

static int teardown(void **state)
{
    (void)state;
    int bad = write(stop[1], "x", 1) != 1 || pthread_join(thread, NULL);
    return bad | close(listen_fd) | close(stop[0]) | close(stop[1]);
}

static int dial(void)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&where, sizeof(where)), 0);
    return fd;
}

/* Sends `request` and reads to the end of file into a text that stays until the next call. */
static const char *ask(const char *request)
{
    static char text[1 << 20];
    size_t len = 0;
    int fd = dial();
    assert_int_equal(send(fd, request, strlen(request), MSG_NOSIGNAL), strlen(request));
    struct pollfd poll_fd = { .fd = fd, .events = POLLIN };
    for (ssize_t n; poll(&poll_fd, 1, 20000) == 1 &&
                    (n = recv(fd, text + len, sizeof(text) - 1 - len, 0)) > 0;)
        len += (size_t)n;
    assert_int_equal(poll(&poll_fd, 1, 0), 1); /* the end, not patience, ended it */
    (void)close(fd);
    text[len] = '\0';
    return text;
}

static void test_answers(void **state)
{
    (void)state;
    observe_ring_put(&observe.clock, 1, 5000000, 0);
    observe_ring_put(&observe.clock, UINT64_MAX, UINT64_MAX, 0);
    observe_ring_put(&observe.work, 7, 8, 9);
    assert_string_equal(ask("clock\n"), "# period_ns=5000000\nat_ns,gap_ns\n1,5000000\n"
                                        "18446744073709551615,18446744073709551615\n");
    assert_string_equal(ask("work\n"), "at_ns,units,busy_ns\n7,8,9\n");
    uint64_t before = observe_now_ns();
    uint64_t now = strtoull(ask("now\n"), NULL, 10);
    assert_true(before <= now && now <= observe_now_ns());
    static const char *const bad[] = { "\n",    "NOW\n",     "now \n",
                                       "clock", "nowhere\n", "a line that is too long for it\n" };
    for (size_t i = 0; i < COUNT(bad); i++)
        if (i != 3)
            assert_string_equal(ask(bad[i]), "");
}

static void test_serves_all_it_has(void **state)
{
    (void)state;
    for (uint64_t i = 0; i < 2 * OBSERVE_ROWS; i++)
        observe_ring_put(&observe.work, UINT64_MAX - i, UINT64_MAX, UINT64_MAX);
    const char *text = ask("work\n");
    size_t lines = 0;
    for (const char *c = text; (c = strchr(c, '\n')); c++)
        lines++;
    assert_int_equal(lines, 1 + OBSERVE_ROWS);
}

/* Who does not read, does not speak or says half a line holds nobody up, and cannot keep the places. */
static void test_hostile_clients(void **state)
{
    (void)state;
    int fds[60];
    for (uint64_t i = 0; i < OBSERVE_ROWS; i++)
        observe_ring_put(&observe.work, i, i, i);
    for (size_t i = 0; i < COUNT(fds); i++) {
        static const char *const says[] = { "", "work\n", "wor", "\0\0\0\n" };
        int small = 1;
        fds[i] = dial();
        (void)setsockopt(fds[i], SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
        (void)send(fds[i], says[i % 4], i % 4 == 3 ? 4 : strlen(says[i % 4]), MSG_NOSIGNAL);
    }
    for (unsigned i = 0; i < 5; i++)
        assert_true(strtoull(ask("now\n"), NULL, 10) > 0);
    for (size_t i = 0; i < COUNT(fds); i++)
        (void)close(fds[i]);
    assert_true(strtoull(ask("now\n"), NULL, 10) > 0);
}

/* The whole of it: rows come by themselves. */
static void test_observes(void **state)
{
    (void)state;
    static struct observe real; /* its threads go on until the program ends */
    uint64_t clock[OBSERVE_COLUMNS], work[OBSERVE_COLUMNS], end = observe_now_ns() + 20000 * MS;
    uint64_t began = observe_now_ns();
    assert_true(observe_start(&real, 2));
    while (observe_ring_count(&real.clock) < 3 || observe_ring_count(&real.work) < 3) {
        assert_true(observe_now_ns() < end);
        (void)poll(NULL, 0, 10);
    }
    assert_true(observe_ring_get(&real.clock, 2, clock) && observe_ring_get(&real.work, 2, work));
    assert_true(clock[0] > began && clock[0] <= observe_now_ns() && clock[1] >= 2 * MS / 2);
    assert_true(work[0] > began && work[0] <= observe_now_ns() && work[1] >= 1 && work[2] > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_configuration),
        cmocka_unit_test(test_largest_gap_of_each_tenth),
        cmocka_unit_test(test_keeps_the_last),
        cmocka_unit_test(test_work),
        cmocka_unit_test_setup_teardown(test_answers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_serves_all_it_has, setup, teardown),
        cmocka_unit_test_setup_teardown(test_hostile_clients, setup, teardown),
        cmocka_unit_test(test_observes),
    };
    return cmocka_run_group_tests_name("observe", tests, NULL, NULL);
}
