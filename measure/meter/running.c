/*
 * The count of running threads changes only at a switch record. So time is accounted for up to each record
 * with the count before it, and the records of all processors are taken in one order. A record that
 * is stamped before the cut but published after the drain would be too late: at most some nanoseconds, since the
 * caller takes the cut before it reads its other files, unless a hypervisor stopped the processor in between. Then
 * the record counts from the cut on, and running_late_ns() says by how much that was wrong.
 *
 * Each processor is in one of two states: it is known what it runs (`current`), or not. It becomes known with
 * any record, and unknown when records were lost. Lost ones are announced by the kernel, but only in
 * front of the next record that fits; so a buffer that is found full up to one record counts as a loss too.
 */
#include "running.h"

#include "base/clock.h"
#include "base/fd.h"

#include <errno.h>
#include <linux/perf_event.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define RING_BYTES ((size_t)1 << 20)        /* a processor: 16000 switches */
#define RING_BYTES_MANY ((size_t)128 << 10) /* with more than MANY processors */
#define MANY 16
#define NEARLY_FULL 256 /* room that any single record finds */
#define RECORD_MAX 128  /* none of those asked for is longer */

/* Records as perf_event_open(2) lays them out with sample_type TID | TIME and sample_id_all. */
struct sample_id {
    uint32_t pid, tid;
    uint64_t at_ns;
};
struct record_switch {
    struct perf_event_header header;
    uint32_t other_pid, other_tid;
    struct sample_id id;
};
struct record_lost {
    struct perf_event_header header;
    uint64_t id, lost;
    struct sample_id sample;
};

struct processor {
    int fd, number;
    struct perf_event_mmap_page *page;
    size_t page_bytes;
    uint64_t tail; /* up to where records were taken */
    uint64_t head; /* up to where they were published, at the last look */
    bool known;
    pid_t current; /* the process it runs */
};

struct running {
    struct processor *processor;
    unsigned count, running; /* processors; threads that run now */
    pid_t pid;
    bool started, gap;
    uint64_t accounted_ns; /* time up to here is in `total` */
    uint64_t *total;       /* [count + 1] */
    uint64_t *taken;
    uint64_t lost, late_ns;
};

/* ------------------------------------------------------------------------------- opening */

static int open_processor(struct processor *cpu, int number, size_t ring, struct err *err)
{
    struct perf_event_attr attr = {
        .type = PERF_TYPE_SOFTWARE,
        .size = sizeof(attr),
        .config = PERF_COUNT_SW_DUMMY,
        .sample_type = PERF_SAMPLE_TID | PERF_SAMPLE_TIME,
        .disabled = 1,
        .context_switch = 1,
        .sample_id_all = 1,
        .use_clockid = 1,
        .clockid = CLOCK_MONOTONIC,
        .watermark = 1,
        .wakeup_watermark = (uint32_t)(ring / 2),
    };
    CLEANUP_FD int fd =
        (int)syscall(SYS_perf_event_open, &attr, -1, number, -1, PERF_FLAG_FD_CLOEXEC);
    if (fd < 0 && errno == ENODEV)
        return -ENODEV; /* not online */
    if (fd < 0)
        return err_errno(err, ERR_HOST, errno, "perf_event_open of context switches, processor %d",
                         number);

    size_t bytes = (size_t)sysconf(_SC_PAGESIZE) + ring;
    void *page = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (page == MAP_FAILED)
        return err_errno(err, ERR_HOST, errno, "buffer for context switches, processor %d", number);
    *cpu = (struct processor){
        .fd = TAKE_FD(fd), .number = number, .page = page, .page_bytes = bytes
    };
    return 0;
}

int running_open(struct running **ret, struct err *err)
{
    long configured = sysconf(_SC_NPROCESSORS_CONF);
    unsigned most = configured > 0 ? (unsigned)configured : 1;
    struct running *running = calloc(1, sizeof(*running));
    if (!running)
        return err_errno(err, ERR_HOST, ENOMEM, "context switches");
    running->processor = calloc(most, sizeof(*running->processor));
    running->total = calloc(most + 1, sizeof(*running->total));
    running->taken = calloc(most + 1, sizeof(*running->taken));
    int rc = running->processor && running->total && running->taken
                 ? 0
                 : err_errno(err, ERR_HOST, ENOMEM, "context switches");

    size_t ring = most > MANY ? RING_BYTES_MANY : RING_BYTES;
    for (unsigned number = 0; number < most && !rc; number++) {
        rc = open_processor(&running->processor[running->count], (int)number, ring, err);
        if (!rc)
            running->count++;
        else if (rc == -ENODEV)
            rc = 0;
    }
    if (rc) {
        running_close(running);
        return rc;
    }
    *ret = running;
    return 0;
}

void running_close(struct running *running)
{
    if (!running)
        return;
    for (unsigned i = 0; i < running->count; i++) {
        (void)munmap(running->processor[i].page, running->processor[i].page_bytes);
        (void)close(running->processor[i].fd);
    }
    free(running->processor);
    free(running->total);
    free(running->taken);
    free(running);
}

/* ------------------------------------------------------------------------------- finding out what runs */

/* Runs a moment on every processor of which nothing is known: the switch to here makes a record there. Where this
 * process may not run, the first record of its own accord has to do. */
static void visit(struct running *running)
{
    cpu_set_t before, one;
    if (sched_getaffinity(0, sizeof(before), &before))
        return;
    for (unsigned i = 0; i < running->count; i++) {
        const struct processor *cpu = &running->processor[i];
        if (cpu->known || cpu->number >= CPU_SETSIZE)
            continue;
        CPU_ZERO(&one);
        CPU_SET((size_t)cpu->number, &one);
        (void)sched_setaffinity(0, sizeof(one), &one); /* returns there */
    }
    (void)sched_setaffinity(0, sizeof(before), &before);
}

void running_start(struct running *running, pid_t pid)
{
    if (!running)
        return;
    running->accounted_ns = clock_now_ns();
    for (unsigned i = 0; i < running->count; i++) {
        struct processor *cpu = &running->processor[i];
        cpu->known = false;
        (void)ioctl(cpu->fd, PERF_EVENT_IOC_ENABLE, 0);
    }
    running->pid = pid;
    running->running = 0;
    running->started = true;
    running->gap = true;
    visit(running);
}

/* ------------------------------------------------------------------------------- taking records in */

/* What the next record of a processor is, copied out, since it may wrap around. False: none is there. */
static bool next_record(struct processor *cpu, void *ret)
{
    if (cpu->tail == cpu->head)
        return false;
    const char *ring = (const char *)cpu->page + cpu->page->data_offset;
    uint64_t mask = cpu->page->data_size - 1, at = cpu->tail & mask;
    struct perf_event_header header;
    memcpy(&header, ring + at, sizeof(header)); /* 8 bytes, aligned: never wraps */
    size_t len = MIN((size_t)header.size, (size_t)RECORD_MAX),
           first = MIN(len, (size_t)(mask + 1 - at));
    memcpy(ret, ring + at, first);
    memcpy((char *)ret + first, ring, len - first);
    return true;
}

static void account(struct running *running, uint64_t until_ns)
{
    if (until_ns < running->accounted_ns) {
        running->late_ns = MAX(running->late_ns, running->accounted_ns - until_ns);
        return;
    }
    running->total[running->running] += until_ns - running->accounted_ns;
    running->accounted_ns = until_ns;
}

static void set_current(struct running *running, struct processor *cpu, bool known, pid_t pid)
{
    running->running -= cpu->known && cpu->current == running->pid;
    cpu->known = known;
    cpu->current = pid;
    running->running += known && pid == running->pid;
}

/* Between a switch out and the switch in that follows it at once, a processor runs process 0, nobody. */
static void take(struct running *running, struct processor *cpu, const void *record)
{
    const struct perf_event_header *header = record;
    if (header->type == PERF_RECORD_SWITCH_CPU_WIDE) {
        const struct record_switch *change = record;
        bool out = header->misc & PERF_RECORD_MISC_SWITCH_OUT;
        account(running, change->id.at_ns);
        set_current(running, cpu, true, out ? 0 : (pid_t)change->id.pid);
    } else if (header->type == PERF_RECORD_LOST) {
        const struct record_lost *lost = record;
        account(running, lost->sample.at_ns);
        running->lost += lost->lost;
        running->gap = true;
        set_current(running, cpu, false, 0);
    }
}

static uint64_t time_of(const void *record)
{
    const struct perf_event_header *header = record;
    struct sample_id id; /* ends every record */
    memcpy(&id, (const char *)record + MIN((size_t)header->size, (size_t)RECORD_MAX) - sizeof(id),
           sizeof(id));
    return id.at_ns;
}

struct front {
    bool there;
    uint64_t at_ns;
    _Alignas(8) char record[RECORD_MAX];
};

static void look(struct processor *cpu, struct front *front)
{
    front->there = next_record(cpu, front->record);
    front->at_ns = front->there ? time_of(front->record) : CLOCK_NEVER;
}

void running_advance(struct running *running, uint64_t until_ns)
{
    if (!running || !running->started)
        return;
    struct front front[running->count];
    for (unsigned i = 0; i < running->count; i++) {
        struct processor *cpu = &running->processor[i];
        cpu->head = __atomic_load_n(&cpu->page->data_head, __ATOMIC_ACQUIRE);
        if (cpu->head - cpu->tail > cpu->page->data_size - NEARLY_FULL)
            running->gap = true;
        look(cpu, &front[i]);
    }
    for (;;) {
        unsigned first = 0;
        for (unsigned i = 1; i < running->count; i++)
            first = front[i].at_ns < front[first].at_ns ? i : first;
        if (!front[first].there || front[first].at_ns > until_ns)
            break;
        struct processor *cpu = &running->processor[first];
        take(running, cpu, front[first].record);
        cpu->tail += ((const struct perf_event_header *)(const void *)front[first].record)->size;
        look(cpu, &front[first]);
    }
    for (unsigned i = 0; i < running->count; i++)
        __atomic_store_n(&running->processor[i].page->data_tail, running->processor[i].tail,
                         __ATOMIC_RELEASE);
    account(running, MAX(until_ns, running->accounted_ns));
}

bool running_take(struct running *running, uint64_t until_ns, const uint64_t **ret,
                  unsigned *ret_count)
{
    if (!running || !running->started)
        return false;
    running_advance(running, until_ns);
    bool good = !running->gap, unknown = false;
    for (unsigned i = 0; i < running->count; i++)
        unknown |= !running->processor[i].known;
    running->gap = unknown;
    if (unknown)
        visit(running);

    *ret_count = 0;
    for (unsigned i = 0; i <= running->count; i++) {
        running->taken[i] = running->total[i];
        running->total[i] = 0;
        if (running->taken[i])
            *ret_count = i + 1;
    }
    *ret = running->taken;
    return good;
}

/* ------------------------------------------------------------------------------- the rest */

unsigned running_count(const struct running *running)
{
    return running ? running->count : 0;
}

void running_poll(const struct running *running, struct pollfd *ret)
{
    for (unsigned i = 0; i < running_count(running); i++)
        ret[i] = (struct pollfd){ .fd = running->processor[i].fd, .events = POLLIN };
}

uint64_t running_lost(const struct running *running)
{
    return running ? running->lost : 0;
}

uint64_t running_late_ns(const struct running *running)
{
    return running ? running->late_ns : 0;
}
