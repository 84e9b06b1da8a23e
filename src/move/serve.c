#include "move/serve.h"
#include "base/clock.h"
#include "base/eager.h"
#include "base/fd.h"
#include "move/urgent.h"
#include "state/pages.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define EAGER_NS \
    (CLOCK_MSEC / 5) /* how long the next question is looked for before it is waited for */

/* While the guest keeps asking, where processors are few: */
#define QUIET_NS CLOCK_MSEC    /* as long without a question: the guest has what it needs */
#define GIVE_WAY_NS CLOCK_MSEC /* the longest that the push waits for that, */
#define LOOK_NS 200000         /* looking so often, */
#define FEW_PAGES 64u          /* and how much it sends then */
#define FEW_PROCESSORS 4

#define SECTION_ROOM (STREAM_SECTION_BYTES + PAGES_TABLE_MAX + PAGES_DATA_MAX * PAGE_BYTES)

/* True for exactly one caller a page. */
static bool take_page(struct serve *serve, uint64_t page)
{
    uint64_t bit = UINT64_C(1) << (page % 64);
    return atomic_fetch_and(&serve->unsent[page / 64], ~bit) & bit;
}

/* ---------------------------------------------------------------------------------- the answering thread */

static int answer(struct serve *serve, uint64_t page, struct err *err)
{
    uint8_t reply[URGENT_HEAD_BYTES + PAGE_BYTES];
    if (page >= serve->mem->pages)
        return err_set(err, ERR_PEER, EBADMSG, "the target asks for page %llu of %llu",
                       (unsigned long long)page, (unsigned long long)serve->mem->pages);
    atomic_store_explicit(&serve->hot, page, memory_order_relaxed);
    atomic_store_explicit(&serve->asked_ns, clock_now_ns(), memory_order_relaxed);
    if (!take_page(serve, page)) {
        atomic_fetch_add_explicit(&serve->late, 1, memory_order_relaxed);
        return 0;
    }
    const uint8_t *bytes = mem_page(serve->mem, page);
    bool zero = serve->is_zero(bytes), again = serve->again[page / 64] >> (page % 64) & 1;
    if (!zero)
        memcpy(reply + URGENT_HEAD_BYTES, bytes, PAGE_BYTES);
    uint64_t word = page | (zero ? URGENT_ZERO : 0);
    urgent_put(reply, word);
    urgent_put(reply + 8, urgent_sum(word, zero ? NULL : reply + URGENT_HEAD_BYTES));
    int rc = link_send(&serve->lane.link, reply, zero ? URGENT_HEAD_BYTES : sizeof(reply), err);
    if (!rc)
        atomic_fetch_add_explicit(zero ? again ? &serve->answered_zero_again : &serve->answered_zero
                                  : again ? &serve->answered_data_again
                                          : &serve->answered_data,
                                  1, memory_order_relaxed);
    return rc;
}

static void look_for_more(struct serve *serve)
{
    uint64_t began = clock_now_ns();
    while (link_wait(&serve->lane.link, 0) == -ETIMEDOUT && eager_again(began, EAGER_NS))
        ;
}

static void *answering_thread(void *arg)
{
    struct serve *serve = arg;
    struct err err = { 0 };
    int slot = meter_thread_enter(serve->meter, BILL_CPU_MOVER), rc = 0;
    urgent_thread();
    while (!rc) {
        uint8_t request[URGENT_REQUEST_BYTES];
        rc = link_recv(&serve->lane.link, request, sizeof(request), &err);
        if (!rc)
            rc = answer(serve, urgent_get(request), &err);
        if (!rc)
            look_for_more(serve);
    }
    if (rc != -ECANCELED) {
        serve->lost = err;
        (void)eventfd_write(serve->lost_fd, 1);
    }
    meter_thread_leave(serve->meter, slot);
    return NULL;
}

/* --------------------------------------------------------------------------------------- on the mover */

int serve_init(struct serve *serve, struct mem *mem, struct meter *meter)
{
    *serve = (struct serve){ .mem = mem,
                             .meter = meter,
                             .words = mem->pages / 64,
                             .unsent = calloc(mem->pages / 64, sizeof(uint64_t)),
                             .told = calloc(mem->pages / 64, sizeof(uint64_t)),
                             .again = calloc(mem->pages / 64, sizeof(uint64_t)),
                             .lane = WIRE_NONE,
                             .stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK),
                             .lost_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK),
                             .section = malloc(SECTION_ROOM),
                             .is_zero = mem_zero_pick() };
    if (serve->unsent && serve->told && serve->again && serve->section && serve->stop_fd >= 0 &&
        serve->lost_fd >= 0)
        return 0;
    serve_fini(serve);
    return -ENOMEM;
}

void serve_fini(struct serve *serve)
{
    serve_close(serve);
    fd_close(&serve->stop_fd);
    fd_close(&serve->lost_fd);
    free(serve->unsent);
    free(serve->told);
    free(serve->again);
    free(serve->section);
    serve->unsent = NULL;
    serve->told = serve->again = NULL;
    serve->section = NULL;
}

void serve_set(struct serve *serve, const uint64_t *set)
{
    for (uint64_t w = 0; w < serve->words; w++)
        atomic_store_explicit(&serve->unsent[w], set[w], memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst);
    serve->hot_seen = UINT64_MAX;
}

uint64_t serve_left(const struct serve *serve)
{
    uint64_t left = 0;
    for (uint64_t w = 0; w < serve->words; w++)
        left += (unsigned)__builtin_popcountll(
            atomic_load_explicit(&serve->unsent[w], memory_order_relaxed));
    return left;
}

int serve_open(struct serve *serve, struct wire *lane)
{
    ASSERT(!serve->open);
    serve->lane = *lane;
    *lane = WIRE_NONE;
    serve->lane.link.cancel_fd = serve->stop_fd;
    serve->lane.link.stall_limit_ns = 0; /* quiet for as long as the guest finds what it needs */
    int rc = -pthread_create(&serve->thread, NULL, answering_thread, serve);
    if (rc) {
        wire_close(&serve->lane);
        return rc;
    }
    (void)pthread_setname_np(serve->thread, "urgent");
    serve->open = true;
    return 0;
}

void serve_close(struct serve *serve)
{
    eventfd_t count;
    if (!serve->open)
        return;
    (void)eventfd_write(serve->stop_fd, 1);
    (void)pthread_join(serve->thread, NULL);
    (void)eventfd_read(serve->stop_fd, &count);
    (void)eventfd_read(serve->lost_fd, &count);
    wire_close(&serve->lane);
    serve->open = false;
}

/* ------------------------------------------------------------------------------------------- the push */

/* The next word with anything to send at or above `from`, or `words`. */
static uint64_t word_up(const struct serve *serve, uint64_t from)
{
    while (from < serve->words && !atomic_load_explicit(&serve->unsent[from], memory_order_relaxed))
        from++;
    return from;
}

/* One above the next such word below `end`, or 0. */
static uint64_t word_down(const struct serve *serve, uint64_t end)
{
    while (end > 0 && !atomic_load_explicit(&serve->unsent[end - 1], memory_order_relaxed))
        end--;
    return end;
}

/* Where to send from: the words nearest to the last fault, on whichever side. What was passed stays passed until a new
 * fault moves the centre: then looking starts over, since bits only ever go. False: nothing is left. */
static bool choose(struct serve *serve, uint64_t *ret_first, bool *ret_up)
{
    uint64_t hot = atomic_load_explicit(&serve->hot, memory_order_relaxed) / 64;
    if (hot != serve->hot_seen) {
        serve->hot_seen = hot;
        serve->up = serve->down = hot;
    }
    serve->up = word_up(serve, serve->up);
    serve->down = word_down(serve, serve->down);
    if (serve->up == serve->words && serve->down == 0)
        return false;
    *ret_up = serve->down == 0 ||
              (serve->up < serve->words && serve->up - hot <= hot - (serve->down - 1));
    *ret_first = *ret_up ? serve->up : serve->down - 1;
    return true;
}

/* The push takes processors from those who answer, place and wait, at both ends. Waits for a moment in which nobody
 * asks, but not for long; returns how many pages may go now. */
static unsigned give_way(const struct serve *serve)
{
    uint64_t began = clock_now_ns(), now = began;
    bool asks = false;
    if (sysconf(_SC_NPROCESSORS_ONLN) >= FEW_PROCESSORS)
        return PAGES_DATA_MAX;
    while (now - atomic_load_explicit(&serve->asked_ns, memory_order_relaxed) < QUIET_NS) {
        asks = true;
        if (now - began >= GIVE_WAY_NS)
            break;
        (void)clock_nanosleep(CLOCK_MONOTONIC, 0, &(struct timespec){ .tv_nsec = LOOK_NS }, NULL);
        now = clock_now_ns();
    }
    return asks ? FEW_PAGES : PAGES_DATA_MAX;
}

struct making {
    struct pages_run run[PAGES_RUNS_MAX];
    uint32_t runs, data_pages;
    uint8_t *data;
};

static void add_page(struct serve *serve, struct making *making, uint64_t page)
{
    const uint8_t *from = mem_page(serve->mem, page);
    bool zero = serve->is_zero(from), again = serve->again[page / 64] >> (page % 64) & 1;
    uint32_t kind = zero ? PAGES_ZERO : PAGES_DATA;
    struct pages_run *last = making->runs ? &making->run[making->runs - 1] : NULL;

    if (last && last->kind == kind && last->first + last->count == page) {
        last->count++;
    } else {
        making->run[making->runs++] = (struct pages_run){ .first = page, .count = 1, .kind = kind };
        serve->pushed.zero_runs += zero;
    }
    if (zero) {
        serve->pushed.zero++;
        serve->pushed.zero_again += again;
        return;
    }
    memcpy(making->data + making->data_pages++ * PAGE_BYTES, from, PAGE_BYTES);
    serve->pushed.data++;
    serve->pushed.data_again += again;
}

/* Words of one section: up from `first` on, or down to somewhere below it, as many as surely fit. */
static void extent(const struct serve *serve, uint64_t first, bool up, unsigned room,
                   uint64_t *ret_first, uint64_t *ret_end)
{
    unsigned pages = 0;
    uint64_t w = first;
    for (;;) {
        pages += (unsigned)__builtin_popcountll(
            atomic_load_explicit(&serve->unsent[w], memory_order_relaxed));
        if (pages > room && w != first) {
            w += up ? 0 : 1; /* not this one any more */
            break;
        }
        if (up ? ++w == serve->words : w-- == 0) {
            w = up ? serve->words : 0;
            break;
        }
    }
    *ret_first = up ? first : MIN(w, first);
    *ret_end = up ? MAX(w, first + 1) : first + 1;
}

static void finish(struct serve *serve, struct making *making, const uint8_t **ret, size_t *ret_len)
{
    size_t table = pages_table_size(making->runs, PAGES_PLAIN_VERSION);
    uint8_t *body = making->data - table;
    (void)pages_table_encode(making->run, making->runs, PAGES_PLAIN_VERSION, PACKING_NONE, 0, body);
    size_t length = table + making->data_pages * PAGE_BYTES;
    struct section section = { .type = SECTION_PAGES,
                               .version = PAGES_PLAIN_VERSION,
                               .length = (uint32_t)length,
                               .body_sum = stream_sum(body, length) };
    section_encode(&section, body - STREAM_SECTION_BYTES);
    *ret = body - STREAM_SECTION_BYTES;
    *ret_len = length + STREAM_SECTION_BYTES;
    serve->pushed.bytes += *ret_len;
}

void serve_next(struct serve *serve, const uint8_t **ret, size_t *ret_len)
{
    struct making making;
    making.runs = making.data_pages = 0;
    making.data = serve->section + STREAM_SECTION_BYTES + PAGES_TABLE_MAX;
    unsigned room = give_way(serve);
    *ret_len = 0;

    /* The other thread may take what was chosen: then choose again. */
    for (uint64_t at, first, end; making.runs == 0;) {
        bool up;
        if (!choose(serve, &at, &up))
            return;
        extent(serve, at, up, room, &first, &end);
        for (uint64_t w = first; w < end; w++) {
            uint64_t bits = atomic_exchange(&serve->unsent[w], 0);
            for (; bits; bits &= bits - 1)
                add_page(serve, &making, w * 64 + (uint64_t)__builtin_ctzll(bits));
        }
    }
    finish(serve, &making, ret, ret_len);
}
