/* The meters: threads land in their groups, memory is the process's own, sockets answer. */
#include "cost/meter.h"

#include "base/clock.h"
#include "base/fd.h"

#include <arpa/inet.h>
#include <linux/magic.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/statfs.h>
#include <cmocka.h>

#define WORK_NS (20 * CLOCK_MSEC)

struct worker {
    struct meter *meter;
    pthread_barrier_t *worked, *read;
    enum bill_group group;
};

/* Uses WORK_NS of CPU, then waits to be read before it leaves. */
static void *work(void *arg)
{
    struct worker *worker = arg;
    int slot = meter_thread_enter(worker->meter, worker->group);
    while (clock_thread_cpu_ns() < WORK_NS)
        ;
    (void)pthread_barrier_wait(worker->worked);
    (void)pthread_barrier_wait(worker->read);
    meter_thread_leave(worker->meter, slot);
    return NULL;
}

static uint64_t sum(const uint64_t cpu_ns[BILL_CPU_MAX])
{
    uint64_t n = 0;
    for (unsigned i = 0; i < BILL_CPU_MAX; i++)
        n += cpu_ns[i];
    return n;
}

static void test_groups(void **state)
{
    (void)state;
    struct meter meter;
    pthread_barrier_t worked, read;
    meter_init(&meter);
    assert_int_equal(pthread_barrier_init(&worked, NULL, 4), 0);
    assert_int_equal(pthread_barrier_init(&read, NULL, 4), 0);
    const enum bill_group groups[3] = { BILL_CPU_VCPU, BILL_CPU_VCPU, BILL_CPU_MOVER };
    struct worker worker[3];
    pthread_t thread[3];
    for (unsigned i = 0; i < 3; i++) {
        worker[i] = (struct worker){
            .meter = &meter, .worked = &worked, .read = &read, .group = groups[i]
        };
        assert_int_equal(pthread_create(&thread[i], NULL, work, &worker[i]), 0);
    }
    (void)pthread_barrier_wait(&worked);
    struct meter_sample alive, left;
    meter_read(&meter, &alive);
    struct timespec ts;
    assert_int_equal(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts), 0);
    (void)pthread_barrier_wait(&read);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(pthread_join(thread[i], NULL), 0);
    meter_read(&meter, &left);

    assert_true(alive.measured & BILL_MEASURED_CPU);
    assert_true(alive.cpu_ns[BILL_CPU_VCPU] >= 2 * WORK_NS);
    assert_true(alive.cpu_ns[BILL_CPU_MOVER] >= WORK_NS);
    assert_int_equal(alive.cpu_ns[BILL_CPU_LOOP], 0);
    /* The groups are the process: no more than it had used a moment later. */
    assert_true(sum(alive.cpu_ns) <= (uint64_t)ts.tv_sec * CLOCK_SECOND + (uint64_t)ts.tv_nsec);
    /* What a thread used stays counted in its group after it left. */
    for (unsigned i = 0; i < BILL_CPU_MAX; i++)
        assert_true(i == BILL_CPU_OTHER || left.cpu_ns[i] >= alive.cpu_ns[i]);
    (void)pthread_barrier_destroy(&worked);
    (void)pthread_barrier_destroy(&read);
    meter_fini(&meter);
}

static void test_too_many_threads(void **state)
{
    (void)state;
    struct meter meter;
    meter_init(&meter);
    for (int i = 0; i < METER_THREADS_MAX; i++)
        assert_int_equal(meter_thread_enter(&meter, BILL_CPU_LOOP), i);
    int slot = meter_thread_enter(&meter, BILL_CPU_LOOP);
    assert_true(slot < 0);
    meter_thread_leave(&meter, slot);
    meter_thread_leave(&meter, 7);
    assert_int_equal(meter_thread_enter(&meter, BILL_CPU_LOOP), 7);
    meter_fini(&meter);
}

#define HEAP_BYTES (UINT64_C(24) << 20)
/* The address sanitizer keeps an eighth of what is mapped as a shadow, which is the process's own memory, too. */
#ifdef __SANITIZE_ADDRESS__
#define SLACK_BYTES (UINT64_C(14) << 20)
#else
#define SLACK_BYTES (UINT64_C(4) << 20)
#endif

static void test_memory_is_our_own(void **state)
{
    (void)state;
    struct meter meter;
    struct meter_span span;
    struct bill_side side;
    meter_init(&meter);
    meter_span_begin(&meter, &span);

    /* Guest memory is a shared memfd: not ours. */
    CLEANUP_FD int memfd = memfd_create("guest", MFD_CLOEXEC);
    assert_int_equal(ftruncate(memfd, 2 * HEAP_BYTES), 0);
    void *guest = mmap(NULL, 2 * HEAP_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
    assert_ptr_not_equal(guest, MAP_FAILED);
    memset(guest, 1, 2 * HEAP_BYTES);

    void *own = mmap(NULL, HEAP_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(own, MAP_FAILED);
    memset(own, 1, HEAP_BYTES);
    meter_span_tick(&span); /* the peak, gone again at the end */
    assert_int_equal(munmap(own, HEAP_BYTES), 0);
    meter_span_end(&meter, &span, -1, &side);

    assert_true(side.measured & BILL_MEASURED_MEMORY);
    uint64_t extra = side.memory_peak_bytes - side.memory_before_bytes;
    /* The kernel's own counters lag by a few pages a thread. */
    assert_true(extra + SLACK_BYTES >= HEAP_BYTES);
    assert_true(extra < HEAP_BYTES + SLACK_BYTES);
    assert_false(side.measured & BILL_MEASURED_TCP);
    assert_int_equal(munmap(guest, 2 * HEAP_BYTES), 0);
    meter_fini(&meter);
}

static void test_disk(void **state)
{
    (void)state;
    struct meter meter;
    struct meter_span span;
    struct bill_side side;
    struct statfs fs;
    char path[] = "meter-XXXXXX"; /* in the build's folder: a disk, where /tmp may be memory */
    char page[4096] = "x";
    CLEANUP_FD int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(fstatfs(fd, &fs), 0);
    meter_init(&meter);
    meter_span_begin(&meter, &span);
    for (unsigned i = 0; i < 16; i++)
        assert_int_equal(fd_write_full(fd, page, sizeof(page)), 0);
    meter_span_end(&meter, &span, -1, &side);
    meter_fini(&meter);

    if (access("/proc/self/io", R_OK) < 0) {
        assert_false(side.measured & BILL_MEASURED_DISK);
        print_message("this kernel has no /proc/self/io\n");
        skip();
    }
    assert_true(side.measured & BILL_MEASURED_DISK);
    if (fs.f_type != EXT4_SUPER_MAGIC && fs.f_type != XFS_SUPER_MAGIC &&
        fs.f_type != BTRFS_SUPER_MAGIC) {
        print_message("the build's folder is on a file system whose writes may not count (0x%lx)\n",
                      (long)fs.f_type);
        skip();
    }
    assert_true(side.disk_written_bytes >= 16 * sizeof(page));
}

static void test_host(void **state)
{
    (void)state;
    struct meter meter;
    struct meter_span span;
    struct bill_side side;
    char host[65] = "";
    meter_init(&meter);
    meter_span_begin(&meter, &span);
    meter_span_end(&meter, &span, -1, &side);
    meter_fini(&meter);
    assert_int_equal(gethostname(host, sizeof(host) - 1), 0);
    assert_string_equal(side.host, host);
}

static void test_tcp(void **state)
{
    (void)state;
    struct meter meter;
    struct meter_span span;
    struct bill_side side;
    struct sockaddr_in address = { .sin_family = AF_INET,
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t len = sizeof(address);
    CLEANUP_FD int listening = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CLEANUP_FD int out = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(listening, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(listening, 1), 0);
    assert_int_equal(getsockname(listening, (struct sockaddr *)&address, &len), 0);
    assert_int_equal(connect(out, (struct sockaddr *)&address, sizeof(address)), 0);

    meter_init(&meter);
    meter_span_begin(&meter, &span);
    meter_span_end(&meter, &span, out, &side);
    assert_true(side.measured & BILL_MEASURED_TCP);
    assert_true(side.tcp_rtt_us > 0);
    CLEANUP_FD int memfd = memfd_create("no-socket", MFD_CLOEXEC);
    meter_span_end(&meter, &span, memfd, &side);
    assert_false(side.measured & BILL_MEASURED_TCP);
    meter_fini(&meter);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_groups),
        cmocka_unit_test(test_too_many_threads),
        cmocka_unit_test(test_memory_is_our_own),
        cmocka_unit_test(test_disk),
        cmocka_unit_test(test_host),
        cmocka_unit_test(test_tcp),
    };
    return cmocka_run_group_tests_name("bill_meter", tests, NULL, NULL);
}
