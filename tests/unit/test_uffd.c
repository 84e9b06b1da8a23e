/* Memory that is fetched when it is touched: who touches a missing page waits, and sees what was placed. */
#include "mem/uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

static struct mem mem;
static struct uffd uffd;

static int set_up(void **state)
{
    struct err err;
    (void)state;
    assert_int_equal(mem_init(&mem, MEM_MIN_BYTES, MEM_PAGES_SMALL, &err), 0);
    return uffd_open(&uffd, &mem, &err);
}

static int tear_down(void **state)
{
    (void)state;
    uffd_close(&uffd);
    mem_fini(&mem);
    return 0;
}

struct toucher {
    pthread_t thread;
    uint64_t page;
    bool by_kernel; /* write(2) from the page to a pipe: the kernel touches it */
    int fd;
    _Atomic(int) seen; /* the page's byte, or -1 while it waits */
};

static void *touch(void *arg)
{
    struct toucher *t = arg;
    volatile const uint8_t *at = mem_page(&mem, t->page);
    if (t->by_kernel)
        t->seen = write(t->fd, mem_page(&mem, t->page), 1) == 1 ? 1 : -2;
    else
        t->seen = at[100];
    return NULL;
}

static void begin(struct toucher *t, uint64_t page)
{
    t->page = page;
    t->seen = -1;
    assert_int_equal(pthread_create(&t->thread, NULL, touch, t), 0);
}

static uint64_t next_fault(void)
{
    struct pollfd fds = { .fd = uffd.fd, .events = POLLIN };
    uint64_t page;
    assert_int_equal(poll(&fds, 1, 10000), 1);
    assert_int_equal(uffd_read(&uffd, &page), 0);
    return page;
}

static void a_read_waits_for_its_page(void **state)
{
    (void)state;
    static uint8_t data[PAGE_BYTES];
    struct toucher t = { 0 };
    uint64_t page, done;
    memset(data, 0x5a, sizeof(data));
    assert_int_equal(uffd_read(&uffd, &page), -EAGAIN);
    begin(&t, 77);
    assert_int_equal(next_fault(), 77);
    assert_int_equal(t.seen, -1);
    assert_int_equal(uffd_copy(&uffd, 77, 1, data, &done), 0);
    assert_int_equal(done, 1);
    assert_int_equal(pthread_join(t.thread, NULL), 0);
    assert_int_equal(t.seen, 0x5a);
}

static void the_kernel_waits_too(void **state)
{
    (void)state;
    static uint8_t data[PAGE_BYTES] = { 0x77 };
    int fds[2];
    uint64_t done;
    uint8_t byte = 0;
    assert_int_equal(pipe(fds), 0);
    struct toucher t = { .by_kernel = true, .fd = fds[1] };
    begin(&t, 300);
    assert_int_equal(next_fault(), 300);
    assert_int_equal(t.seen, -1);
    assert_int_equal(uffd_copy(&uffd, 300, 1, data, &done), 0);
    assert_int_equal(pthread_join(t.thread, NULL), 0);
    assert_int_equal(t.seen, 1);
    assert_int_equal(read(fds[0], &byte, 1), 1);
    assert_int_equal(byte, 0x77);
    close(fds[0]);
    close(fds[1]);
}

static void what_is_there_stays(void **state)
{
    (void)state;
    static uint8_t data[4 * PAGE_BYTES];
    uint64_t done;
    memset(data, 1, sizeof(data));
    assert_int_equal(uffd_copy(&uffd, 12, 1, data, &done), 0);
    *mem_page(&mem, 12) = 9; /* by the guest, since */
    memset(data, 2, sizeof(data));
    assert_int_equal(uffd_copy(&uffd, 12, 1, data, &done), -EEXIST);
    assert_int_equal(uffd_zero(&uffd, 12, 1, &done), -EEXIST);
    assert_int_equal(*mem_page(&mem, 12), 9);
    assert_int_equal(uffd_copy(&uffd, 10, 4, data, &done), 0); /* up to there */
    assert_int_equal(done, 2);
    assert_int_equal(*mem_page(&mem, 11), 2);
    assert_int_equal(*mem_page(&mem, 12), 9);
}

static void zeroes(void **state)
{
    (void)state;
    uint64_t done;
    assert_int_equal(uffd_zero(&uffd, 500, 64, &done), 0);
    assert_int_equal(done, 64);
    for (uint64_t page = 500; page < 564; page++)
        assert_int_equal(*mem_page(&mem, page), 0);
}

/* A page that was in the file and is punched out is missing again; one that is not is mapped without a question. */
static void a_punched_page_is_missing(void **state)
{
    (void)state;
    static uint8_t data[PAGE_BYTES] = { 3 };
    uint64_t done, page;
    struct toucher t = { 0 };
    assert_int_equal(pwrite(mem.memfd, data, 1, 40 * PAGE_BYTES), 1);
    assert_int_equal(pwrite(mem.memfd, data, 1, 41 * PAGE_BYTES), 1);
    assert_int_equal(fallocate(mem.memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                               40 * PAGE_BYTES, PAGE_BYTES),
                     0);
    assert_int_equal(*mem_page(&mem, 41), 3);
    assert_int_equal(uffd_read(&uffd, &page), -EAGAIN);
    begin(&t, 40);
    assert_int_equal(next_fault(), 40);
    assert_int_equal(uffd_zero(&uffd, 40, 1, &done), 0);
    assert_int_equal(pthread_join(t.thread, NULL), 0);
    assert_int_equal(t.seen, 0);
}

int main(void)
{
    struct err err = { 0 };
    if (uffd_check(&err)) {
        (void)printf("skipped: %s\n", err.text);
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_read_waits_for_its_page, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_kernel_waits_too, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_is_there_stays, set_up, tear_down),
        cmocka_unit_test_setup_teardown(zeroes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_punched_page_is_missing, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
