#include "move/serve.h"
#include "base/clock.h"
#include "base/eager.h"
#include "base/fd.h"
#include "move/page_source.h"
#include "move/urgent.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define EAGER_NS \
    (CLOCK_MSEC / 5) /* how long the next question is looked for before it is waited for */

/* While the guest keeps asking, where processors are few: */
#define QUIET_NS UINT64_C(200000)    /* so long without a question: the guest has what it needs */
#define GIVE_WAY_NS UINT64_C(400000) /* the longest that the push waits for that, */
#define LOOK_NS 100000               /* looking so often, */
#define FEW_PAGES 64u                /* and how much it sends then */
#define FEW_PROCESSORS 4

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
    size_t len = zero ? URGENT_HEAD_BYTES : sizeof(reply);
    int rc = link_send(&serve->lane.link, reply, len, err);
    bucket_spend(serve->bucket, len, clock_now_ns());
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

int serve_init(struct serve *serve, struct mem *mem, struct meter *meter, struct bucket *bucket)
{
    *serve = (struct serve){ .mem = mem,
                             .meter = meter,
                             .bucket = bucket,
                             .words = mem->pages / 64,
                             .unsent = calloc(mem->pages / 64, sizeof(uint64_t)),
                             .told = calloc(mem->pages / 64, sizeof(uint64_t)),
                             .again = calloc(mem->pages / 64, sizeof(uint64_t)),
                             .lane = WIRE_NONE,
                             .stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK),
                             .lost_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK),
                             .is_zero = mem_zero_pick() };
    if (serve->unsent && serve->told && serve->again && serve->stop_fd >= 0 && serve->lost_fd >= 0)
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
    serve->unsent = NULL;
    serve->told = serve->again = NULL;
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
    struct tls_facts facts;
    eventfd_t count;
    if (!serve->open)
        return;
    (void)eventfd_write(serve->stop_fd, 1);
    (void)pthread_join(serve->thread, NULL);
    (void)eventfd_read(serve->stop_fd, &count);
    (void)eventfd_read(serve->lost_fd, &count);
    if (link_facts(&serve->lane.link, &facts)) {
        serve->wire_sent_bytes += facts.sent_bytes;
        serve->wire_received_bytes += facts.received_bytes;
    }
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
 * asks, but not for long, and all lanes with it; returns how many of `room` pages may go now. */
static unsigned give_way(const struct serve *serve, unsigned room)
{
    uint64_t began = clock_now_ns(), now = began;
    bool asks = false;
    if (sysconf(_SC_NPROCESSORS_ONLN) >= FEW_PROCESSORS)
        return room;
    while (now - atomic_load_explicit(&serve->asked_ns, memory_order_relaxed) < QUIET_NS) {
        asks = true;
        if (now - began >= GIVE_WAY_NS)
            break;
        (void)clock_nanosleep(CLOCK_MONOTONIC, 0, &(struct timespec){ .tv_nsec = LOOK_NS }, NULL);
        now = clock_now_ns();
    }
    return asks ? MIN(room, FEW_PAGES) : room;
}

/* How many words together surely fit: up from `first` on, or down to somewhere below it. */
static void extent(const struct serve *serve, uint64_t first, bool up, unsigned room,
                   uint64_t *ret_first, uint64_t *ret_end)
{
    uint64_t low = first, end = first + 1;
    unsigned pages = (unsigned)__builtin_popcountll(
        atomic_load_explicit(&serve->unsent[first], memory_order_relaxed));
    while (end - low < PAGE_BATCH_WORDS && (up ? end < serve->words : low > 0)) {
        uint64_t next = up ? end : low - 1;
        pages += (unsigned)__builtin_popcountll(
            atomic_load_explicit(&serve->unsent[next], memory_order_relaxed));
        if (pages > room)
            break;
        low = up ? low : next;
        end = up ? next + 1 : end;
    }
    *ret_first = low;
    *ret_end = end;
}

/* At most `room` pages of a word, the lowest; the answering thread may be quicker. */
static uint64_t take_word(struct serve *serve, uint64_t word, unsigned room)
{
    uint64_t left = atomic_load_explicit(&serve->unsent[word], memory_order_relaxed), want = 0;
    for (; left && room > 0; room--, left &= left - 1)
        want |= left & -left;
    return want ? atomic_fetch_and(&serve->unsent[word], ~want) & want : 0;
}

void serve_take(struct serve *serve, unsigned room, struct page_batch *ret)
{
    ret->pages = ret->words = 0;
    room = give_way(serve, room);
    /* The other thread may take what was chosen: then choose again. */
    for (uint64_t at, first, end; ret->pages == 0;) {
        bool up;
        if (!choose(serve, &at, &up))
            return;
        extent(serve, at, up, room, &first, &end);
        ret->first = first * 64;
        ret->words = (unsigned)(end - first);
        for (unsigned w = 0; w < ret->words; w++) {
            ret->bits[w] = take_word(serve, first + w, room - ret->pages);
            ret->pages += (unsigned)__builtin_popcountll(ret->bits[w]);
        }
    }
}
