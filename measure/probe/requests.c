#include "requests.h"

#include <errno.h>

#define FIRST_CAPACITY 1024

int requests_init(struct requests *requests, struct rows *rows)
{
    *requests = (struct requests){ .capacity = FIRST_CAPACITY, .rows = rows };
    requests->ring = calloc(requests->capacity, sizeof(*requests->ring));
    return requests->ring ? 0 : -ENOMEM;
}

void requests_free(struct requests *requests)
{
    free(requests->ring);
    requests->ring = NULL;
    requests->first = requests->next = 0;
}

static bool grow(struct requests *requests)
{
    uint64_t capacity = requests->capacity * 2;
    if (capacity > REQUESTS_MAX)
        return false;
    struct request *ring = calloc(capacity, sizeof(*ring));
    if (!ring)
        return false;
    for (uint64_t seq = requests->first; seq != requests->next; seq++)
        ring[seq & (capacity - 1)] = requests->ring[seq & (requests->capacity - 1)];
    free(requests->ring);
    requests->ring = ring;
    requests->capacity = capacity;
    return true;
}

struct request *requests_add(struct requests *requests, uint64_t due_ns, uint64_t deadline_ns,
                             const char *kind)
{
    if (requests->next - requests->first == requests->capacity && !grow(requests))
        requests_end(requests, requests_oldest(requests), STATUS_UNSENT, 0);
    struct request *request = &requests->ring[requests->next & (requests->capacity - 1)];
    *request = (struct request){ .seq = requests->next++,
                                 .due_ns = due_ns,
                                 .deadline_ns = deadline_ns,
                                 .connection = ROW_NO_CONNECTION,
                                 .kind = kind };
    return request;
}

struct request *requests_find(struct requests *requests, uint64_t seq)
{
    if (seq - requests->first >= requests->next - requests->first)
        return NULL;
    struct request *request = &requests->ring[seq & (requests->capacity - 1)];
    return request->status == STATUS_PENDING ? request : NULL;
}

void requests_end(struct requests *requests, struct request *request, enum status status,
                  uint64_t at_ns)
{
    ASSERT(request->status == STATUS_PENDING && status != STATUS_PENDING);
    request->status = status;
    request->done_ns = at_ns;
    requests->ended[status]++;
    while ((request = requests_oldest(requests)) && request->status != STATUS_PENDING) {
        struct row row = { .seq = request->seq,
                           .kind = request->kind,
                           .connection = request->connection,
                           .due_ns = request->due_ns,
                           .sent_ns = request->sent_ns,
                           .done_ns = request->done_ns,
                           .bytes = request->bytes,
                           .status = request->status };
        rows_put(requests->rows, &row);
        requests->first++;
    }
}
