/* What is to be sent: as the source finds it when it hands the guest over, and as the target says later. */
#include "base/clock.h"
#include "mem/discard.h"
#include "move/serve.h"
#include "state/absent.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Adds all touched pages of [from, end). */
static int add_touched(struct serve *serve, uint64_t from, uint64_t *set)
{
    while (from < serve->mem->pages) {
        uint64_t first, end;
        int rc = mem_next_touched(serve->mem, from, &first, &end);
        if (rc)
            return rc == -ENXIO ? 0 : rc;
        for (uint64_t page = MAX(first, from); page < end; page++)
            set[page / 64] |= UINT64_C(1) << (page % 64);
        from = end;
    }
    return 0;
}

int serve_list(struct serve *serve, const struct dirty *dirty, uint64_t visited,
               const uint64_t *unsent, struct buf *out, struct serve_listed *ret)
{
    CLEANUP_FREE uint64_t *set = calloc(serve->words, sizeof(*set));
    if (!set)
        return -ENOMEM;
    uint64_t began_ns = clock_thread_cpu_ns();
    int rc = add_touched(serve, visited, set);
    if (rc)
        return rc;
    *ret = (struct serve_listed){ .told_ns = clock_thread_cpu_ns() - began_ns };
    for (uint64_t w = 0; w < serve->words; w++) {
        uint64_t came_to = visited >= (w + 1) * 64 ? UINT64_MAX
                           : visited <= w * 64     ? 0
                                                   : (UINT64_C(1) << (visited % 64)) - 1;
        uint64_t untouched = ~(set[w] | came_to);
        ret->untouched += (unsigned)__builtin_popcountll(untouched);
        ret->untouched_free +=
            (unsigned)__builtin_popcountll(mem_freed_among(serve->mem, w * 64, untouched));
        if (!dirty)
            continue;
        set[w] = dirty->pending[w] & (set[w] | came_to);
        serve->again[w] = unsent ? came_to & ~unsent[w] : came_to;
    }
    ret->pages = absent_put(out, set, serve->mem->pages);
    serve_set(serve, set);
    return buf_status(out);
}

int serve_told(struct serve *serve, struct link *link, const struct section *section,
               struct err *err)
{
    uint64_t pages;
    if (section->version != ABSENT_VERSION || section->length > ABSENT_BYTES_MAX)
        return err_set(err, ERR_PEER, EPROTONOSUPPORT, "absent section of version %u, %u bytes",
                       section->version, section->length);
    CLEANUP_FREE uint8_t *body = malloc(section->length + 1u);
    if (!body)
        return err_errno(err, ERR_HOST, ENOMEM, "cannot hear what is missing");
    int rc = link_recv_body(link, section, body, err);
    if (!rc)
        rc = absent_get(body, section->length, serve->mem->pages, &serve->told_next, serve->told,
                        &pages, err);
    if (!rc)
        serve->told_pages += pages;
    return rc;
}

void serve_told_again(struct serve *serve)
{
    memset(serve->told, 0, serve->words * sizeof(*serve->told));
    serve->told_next = serve->told_pages = 0;
}

int serve_use_told(struct serve *serve, uint64_t pages, struct err *err)
{
    if (pages != serve->told_pages)
        return err_set(err, ERR_PEER, EBADMSG, "%llu pages are missing, and %llu were named",
                       (unsigned long long)pages, (unsigned long long)serve->told_pages);
    for (uint64_t w = 0; w < serve->words; w++) /* what was on its way, and did not arrive */
        serve->again[w] |= serve->told[w] & ~atomic_load(&serve->unsent[w]);
    serve_set(serve, serve->told);
    return 0;
}
