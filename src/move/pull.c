#include "move/pull.h"
#include "base/clock.h"
#include "base/eager.h"
#include "base/fd.h"
#include "move/urgent.h"
#include "state/absent.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* How long the fault thread looks for the reply, and after it for the next fault, before it sleeps: most come within
 * this time, and waking a sleeping thread can cost more than the network. */
#define EAGER_NS UINT64_C(150000)

static bool is_set(const _Atomic(uint64_t) *set, uint64_t page)
{
    return atomic_load(&set[page / 64]) >> (page % 64) & 1;
}

/* ------------------------------------------------------------------------------- waits, and their times */

static void wait_begins(struct pull *pull, uint64_t page)
{
    uint64_t now = clock_now_ns();
    (void)pthread_mutex_lock(&pull->lock);
    pull->faults++;
    if (pull->waiting_count < PULL_WAITING_MAX)
        pull->waiting[pull->waiting_count++] =
            (struct pull_waiting){ .page = page, .since_ns = now };
    (void)pthread_mutex_unlock(&pull->lock);
}

static unsigned time_slot(uint64_t ns)
{
    if (ns < 8)
        return (unsigned)ns;
    unsigned octave = 63 - (unsigned)__builtin_clzll(ns);
    return MIN(octave * 8 + (unsigned)(ns >> (octave - 3) & 7), PULL_TIMES - 1u);
}

static uint64_t time_of_slot(unsigned slot)
{
    return slot < 8 ? slot : (UINT64_C(8) + slot % 8) << (slot / 8 - 3);
}

/* Page by page, only for those that somebody waits for. */
static void wait_ends(struct pull *pull, uint64_t page)
{
    uint64_t now = clock_now_ns();
    (void)pthread_mutex_lock(&pull->lock);
    for (unsigned i = 0; i < pull->waiting_count; i++) {
        if (pull->waiting[i].page != page)
            continue;
        uint64_t ns = now - pull->waiting[i].since_ns;
        pull->times[time_slot(ns)]++;
        pull->max_ns = MAX(pull->max_ns, ns);
        pull->waiting[i] = pull->waiting[--pull->waiting_count];
        break;
    }
    (void)pthread_mutex_unlock(&pull->lock);
}

/* ------------------------------------------------------------------------------------------ placing */

static void tell(struct pull *pull)
{
    (void)eventfd_write(pull->event_fd, 1);
}

static void placed(struct pull *pull, uint64_t first, uint64_t count)
{
    for (uint64_t page = first; page < first + count; page++) {
        uint64_t bit = UINT64_C(1) << (page % 64);
        (void)atomic_fetch_and(&pull->missing[page / 64], ~bit);
        if (atomic_fetch_and(&pull->wanted[page / 64], ~bit) & bit)
            wait_ends(pull, page);
    }
    if (atomic_fetch_sub(&pull->left, count) == count)
        tell(pull);
}

static void count_duplicate(struct pull *pull)
{
    (void)pthread_mutex_lock(&pull->lock);
    pull->duplicates++;
    (void)pthread_mutex_unlock(&pull->lock);
}

/* Fills missing pages of [first, first + count); `data` NULL: with zeroes. What is not missing stays as it is,
 * since the guest may have written to it. */
static int place(struct pull *pull, uint64_t first, uint64_t count, const uint8_t *data)
{
    uint64_t end = first + count;
    while (first < end) {
        if (!is_set(pull->missing, first)) {
            count_duplicate(pull);
            first++;
            data = data ? data + PAGE_BYTES : NULL;
            continue;
        }
        uint64_t run = 1, done = 1;
        while (first + run < end && is_set(pull->missing, first + run))
            run++;
        int rc = data ? uffd_copy(&pull->uffd, first, run, data, &done)
                      : uffd_zero(&pull->uffd, first, run, &done);
        if (rc == -EEXIST)
            count_duplicate(pull); /* on two lanes at once: the other one has counted it */
        else if (rc)
            return rc;
        else
            placed(pull, first, done);
        first += done;
        data = data ? data + done * PAGE_BYTES : NULL;
    }
    return 0;
}

static void cannot_place(struct pull *pull, int rc)
{
    atomic_store(&pull->failed, rc);
    tell(pull);
}

/* ---------------------------------------------------------------------------------- the fault thread */

static void lose_lane(struct pull *pull)
{
    wire_close(&pull->lane);
    atomic_store(&pull->lane_lost, true);
    tell(pull);
}

static void request(struct pull *pull, uint64_t page)
{
    uint8_t bytes[URGENT_REQUEST_BYTES];
    struct err err;
    if (pull->lane.link.fd < 0)
        return; /* it is wanted, and asked for when there is a lane again */
    urgent_put(bytes, page);
    int rc = link_send(&pull->lane.link, bytes, sizeof(bytes), &err);
    if (!rc)
        pull->requested++;
    else if (rc != -ECANCELED)
        lose_lane(pull);
}

/* Whoever waits at a page that is not missing, or will never come, is let go on with zeroes. */
static void answer_here(struct pull *pull, uint64_t page)
{
    uint64_t done;
    int rc = uffd_zero(&pull->uffd, page, 1, &done);
    if (rc && rc != -EEXIST)
        cannot_place(pull, rc);
}

static void on_fault(struct pull *pull, uint64_t page)
{
    uint64_t bit = UINT64_C(1) << (page % 64);
    if (!is_set(pull->missing, page) || atomic_load(&pull->doomed)) {
        answer_here(pull, page);
        return;
    }
    if (atomic_fetch_or(&pull->wanted[page / 64], bit) & bit)
        return; /* by another vCPU, too */
    wait_begins(pull, page);
    if (is_set(pull->missing, page)) {
        request(pull, page);
    } else { /* the push brought it just now */
        (void)atomic_fetch_and(&pull->wanted[page / 64], ~bit);
        wait_ends(pull, page);
    }
}

static int on_reply(struct pull *pull)
{
    uint8_t head[URGENT_HEAD_BYTES], page_bytes[PAGE_BYTES];
    struct err err;
    int rc = link_recv(&pull->lane.link, head, sizeof(head), &err);
    if (rc)
        return rc;
    uint64_t word = urgent_get(head), page = word & ~URGENT_ZERO;
    bool zero = word & URGENT_ZERO;
    if (!zero)
        rc = link_recv(&pull->lane.link, page_bytes, sizeof(page_bytes), &err);
    if (rc)
        return rc;
    if (page >= pull->mem->pages ||
        urgent_get(head + 8) != urgent_sum(word, zero ? NULL : page_bytes))
        return -EBADMSG;
    rc = place(pull, page, 1, zero ? NULL : page_bytes);
    if (rc)
        cannot_place(pull, rc);
    return 0;
}

/* The machine will be thrown away: whoever loads it must only come to an end. */
static void doom(struct pull *pull)
{
    atomic_store(&pull->doomed, true);
    for (uint64_t w = 0; w < pull->words; w++)
        for (uint64_t bits = atomic_load(&pull->wanted[w]); bits; bits &= bits - 1)
            answer_here(pull, w * 64 + (uint64_t)__builtin_ctzll(bits));
}

static bool must_doom(struct pull *pull)
{
    if (!atomic_load(&pull->loading) || atomic_load(&pull->doomed))
        return false;
    if (atomic_load(&pull->failed))
        return true;
    uint64_t now = clock_now_ns();
    (void)pthread_mutex_lock(&pull->lock);
    bool waits = pull->waiting_count > 0;
    bool late = waits && now - pull->waiting[0].since_ns > pull->doom_after_ns;
    (void)pthread_mutex_unlock(&pull->lock);
    return late || (waits && pull->lane.link.fd < 0);
}

/* Takes what there is of faults and replies. False: there was nothing. */
static bool work(struct pull *pull)
{
    uint64_t page;
    bool any = false;
    while (uffd_read(&pull->uffd, &page) == 0) {
        on_fault(pull, page);
        any = true;
    }
    while (pull->lane.link.fd >= 0 && link_wait(&pull->lane.link, 0) == 0) {
        int rc = on_reply(pull);
        if (rc == -ECANCELED)
            break;
        if (rc)
            lose_lane(pull);
        any = true;
    }
    return any;
}

static void *fault_thread(void *arg)
{
    struct pull *pull = arg;
    int slot = meter_thread_enter(pull->meter, BILL_CPU_MOVER);
    urgent_thread();
    uint64_t worked_ns = 0;
    for (;;) {
        if (work(pull))
            worked_ns = clock_now_ns();
        if (must_doom(pull))
            doom(pull);
        if (eager_again(worked_ns, EAGER_NS))
            continue;
        struct pollfd fds[3] = { { .fd = pull->stop_fd, .events = POLLIN },
                                 { .fd = pull->uffd.fd, .events = POLLIN },
                                 { .fd = pull->lane.link.fd, .events = POLLIN } };
        (void)poll(fds, 3, atomic_load(&pull->loading) ? 100 : -1);
        if (fds[0].revents)
            break;
    }
    meter_thread_leave(pull->meter, slot);
    return NULL;
}

static int start(struct pull *pull)
{
    int rc = -pthread_create(&pull->thread, NULL, fault_thread, pull);
    pull->running = !rc;
    if (!rc)
        (void)pthread_setname_np(pull->thread, "faults");
    return rc;
}

/* Faults wait in the kernel meanwhile. */
static void stop(struct pull *pull)
{
    eventfd_t count;
    if (!pull->running)
        return;
    (void)eventfd_write(pull->stop_fd, 1);
    (void)pthread_join(pull->thread, NULL);
    (void)eventfd_read(pull->stop_fd, &count);
    pull->running = false;
}

/* ---------------------------------------------------------------------------------------- on the mover */

struct pull *pull_new(struct mem *mem, struct meter *meter, uint64_t doom_after_ns)
{
    struct pull *pull = calloc(1, sizeof(*pull));
    if (!pull)
        return NULL;
    *pull = (struct pull){ .mem = mem,
                           .meter = meter,
                           .uffd = UFFD_NONE,
                           .words = mem->pages / 64,
                           .missing = calloc(mem->pages / 64, sizeof(uint64_t)),
                           .wanted = calloc(mem->pages / 64, sizeof(uint64_t)),
                           .lane = WIRE_NONE,
                           .doom_after_ns = doom_after_ns,
                           .loading = true,
                           .stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK),
                           .event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK) };
    (void)pthread_mutex_init(&pull->lock, NULL);
    if (pull->missing && pull->wanted && pull->stop_fd >= 0 && pull->event_fd >= 0)
        return pull;
    pull_free(pull);
    return NULL;
}

void pull_free(struct pull *pull)
{
    if (!pull)
        return;
    ASSERT(!pull->running && pull->uffd.fd < 0);
    wire_close(&pull->lane);
    fd_close(&pull->stop_fd);
    fd_close(&pull->event_fd);
    free(pull->missing);
    free(pull->wanted);
    (void)pthread_mutex_destroy(&pull->lock);
    free(pull);
}

/* A large page that the kernel cannot split is zeroed where a hole was wanted: nothing would be missing there, and the
 * guest would read zeroes. Large pages it meets where post-copy was asked for only when the move was under way. */
static bool is_hole(const struct mem *mem, uint64_t first, uint64_t end)
{
    uint64_t from, to;
    int rc = mem_next_touched(mem, first, &from, &to);
    return rc == -ENXIO || (!rc && from >= end);
}

/* What an earlier round brought of these words' pages is stale. */
static int punch(struct pull *pull, uint64_t first, uint64_t end)
{
    uint64_t from = 0, count = 0;
    for (uint64_t page = first; page <= end; page++) {
        if (page < end && is_set(pull->missing, page)) {
            from = count++ ? from : page;
            continue;
        }
        if (count && fallocate(pull->mem->memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                               (off_t)(from * PAGE_BYTES), (off_t)(count * PAGE_BYTES)) < 0)
            return -errno;
        if (count && !is_hole(pull->mem, from, from + count))
            return -EBUSY;
        count = 0;
    }
    return 0;
}

/* Only where the file holds anything: asking is cheap, and mostly it does not. */
static int drop_stale(struct pull *pull, uint64_t first, uint64_t end)
{
    while (first < end) {
        uint64_t from, to;
        int rc = mem_next_touched(pull->mem, first, &from, &to);
        if (rc == -ENXIO || (!rc && from >= end))
            return 0;
        if (!rc)
            rc = punch(pull, MAX(from, first), MIN(to, end));
        if (rc)
            return rc;
        first = to;
    }
    return 0;
}

int pull_absent(struct pull *pull, const uint8_t *body, uint32_t length, uint64_t *ret_count,
                struct err *err)
{
    uint64_t before = pull->next_absent;
    CLEANUP_FREE uint64_t *set = calloc(pull->words, sizeof(*set));
    if (!set)
        return err_errno(err, ERR_HOST, ENOMEM, "cannot note what is missing");
    int rc = absent_get(body, length, pull->mem->pages, &pull->next_absent, set, ret_count, err);
    if (rc)
        return rc;
    for (uint64_t w = before / 64; w < pull->next_absent / 64; w++)
        atomic_store_explicit(&pull->missing[w], set[w], memory_order_relaxed);
    pull->absent += *ret_count;
    atomic_fetch_add(&pull->left, *ret_count);
    rc = drop_stale(pull, before, pull->next_absent);
    return rc ? err_errno(err, ERR_HOST, -rc, "cannot drop stale pages") : 0;
}

int pull_arm(struct pull *pull, struct err *err)
{
    int rc = uffd_open(&pull->uffd, pull->mem, err);
    if (rc)
        return rc;
    pull->armed = true;
    rc = start(pull);
    return rc ? err_errno(err, ERR_HOST, -rc, "cannot start the fault thread") : 0;
}

int pull_loaded(struct pull *pull, struct err *err)
{
    int failed = atomic_load(&pull->failed);
    atomic_store(&pull->loading, false);
    if (failed)
        return err_errno(err, ERR_HOST, -failed, "cannot place guest memory");
    if (!atomic_load(&pull->doomed))
        return 0;
    return err_set(err, ERR_PEER, ECONNRESET,
                   "the source was lost while the guest's state was being loaded");
}

int pull_attach(struct pull *pull, struct wire *lane, struct err *err)
{
    bool was_running = pull->running;
    stop(pull);
    wire_close(&pull->lane);
    pull->lane = *lane;
    *lane = WIRE_NONE;
    pull->lane.link.cancel_fd = pull->stop_fd;
    pull->lane.link.stall_limit_ns = 0; /* the move's connection notices a source that is silent */
    atomic_store(&pull->lane_lost, false);
    for (uint64_t w = 0; w < pull->words && pull->lane.link.fd >= 0; w++)
        for (uint64_t bits = atomic_load(&pull->wanted[w]); bits; bits &= bits - 1)
            request(pull, w * 64 + (uint64_t)__builtin_ctzll(bits));
    int rc = was_running ? start(pull) : 0;
    return rc ? err_errno(err, ERR_HOST, -rc, "cannot start the fault thread") : 0;
}

void pull_detach(struct pull *pull)
{
    bool was_running = pull->running;
    stop(pull);
    wire_close(&pull->lane);
    if (was_running && start(pull))
        cannot_place(pull, -EAGAIN);
}

int pull_place(struct pull *pull, const struct pages_body *body, const uint8_t *data,
               struct err *err)
{
    uint64_t pages = 0;
    int rc = 0;
    if (body->pages[PAGES_DELTA]) /* of what? */
        return err_set(err, ERR_PEER, EBADMSG, "a delta of a page that is missing");
    if (body->pages[PAGES_DATA] && !data)
        return err_set(err, ERR_BUG, EINVAL, "pages that are not at hand");
    for (uint32_t i = 0; i < body->runs && !rc; i++) {
        const struct pages_run *run = &body->run[i];
        bool zero = run->kind == PAGES_ZERO;
        rc = place(pull, run->first, run->count, zero ? NULL : data);
        data += zero ? 0 : (size_t)run->count * PAGE_BYTES;
        pages += run->count;
    }
    (void)pthread_mutex_lock(&pull->lock);
    pull->pushed += pages;
    (void)pthread_mutex_unlock(&pull->lock);
    if (rc)
        cannot_place(pull, rc);
    return rc ? err_errno(err, ERR_HOST, -rc, "cannot place guest memory") : 0;
}

int pull_tell(struct pull *pull, struct wire *wire, const uint8_t token[MOVE_TOKEN_BYTES],
              struct err *err)
{
    CLEANUP_BUF struct buf out = { 0 };
    CLEANUP_FREE uint64_t *set = calloc(pull->words, sizeof(*set));
    struct message pull_message = { .type = MESSAGE_PULL };
    for (uint64_t w = 0; set && w < pull->words; w++)
        set[w] = atomic_load(&pull->missing[w]);
    pull_message.pull.pages = set ? absent_put(&out, set, pull->mem->pages) : 0;
    memcpy(pull_message.pull.token, token, MOVE_TOKEN_BYTES);
    message_encode(&pull_message, &out);
    if (!set || buf_status(&out))
        return err_errno(err, ERR_HOST, ENOMEM, "cannot say what is missing");
    return wire_send(wire, out.data, out.len, err);
}

uint64_t pull_left(const struct pull *pull)
{
    return atomic_load(&pull->left);
}

void pull_stranded(struct pull *pull, bool stranded)
{
    uint64_t now = clock_now_ns();
    if (stranded && !pull->stranded_since_ns) {
        pull->interrupted++;
        pull->stranded_since_ns = now;
    } else if (!stranded && pull->stranded_since_ns) {
        pull->stranded_ns += now - pull->stranded_since_ns;
        pull->stranded_since_ns = 0;
    }
}

static uint64_t percentile(const struct pull *pull, uint64_t total, unsigned percent)
{
    uint64_t seen = 0;
    for (unsigned i = 0; i < PULL_TIMES; i++) {
        seen += pull->times[i];
        if (total && seen * 100 >= total * percent)
            return MIN(time_of_slot(i), pull->max_ns);
    }
    return pull->max_ns;
}

void pull_account(struct pull *pull, struct message_pulled *ret)
{
    uint64_t total = 0;
    pull_stranded(pull, false);
    (void)pthread_mutex_lock(&pull->lock);
    *ret = (struct message_pulled){ .missing = pull_left(pull),
                                    .absent = pull->absent,
                                    .faults = pull->faults,
                                    .requested = pull->requested,
                                    .pushed = pull->pushed,
                                    .duplicates = pull->duplicates,
                                    .interrupted = pull->interrupted,
                                    .stranded_ns = pull->stranded_ns,
                                    .max_ns = pull->max_ns };
    for (unsigned i = 0; i < PULL_TIMES; i++) {
        ret->bucket[MIN(i < 8 ? 0 : i / 8, PULL_BUCKETS - 1u)] += pull->times[i];
        total += pull->times[i];
    }
    ret->p50_ns = percentile(pull, total, 50);
    ret->p90_ns = percentile(pull, total, 90);
    ret->p99_ns = percentile(pull, total, 99);
    (void)pthread_mutex_unlock(&pull->lock);
}

void pull_finish(struct pull *pull, struct wire *ret_lane)
{
    ASSERT(pull_left(pull) == 0);
    pull_abandon(pull);
    *ret_lane = pull->lane;
    pull->lane = WIRE_NONE;
}

void pull_abandon(struct pull *pull)
{
    stop(pull);
    uffd_close(&pull->uffd);
}
