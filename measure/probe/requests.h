/*
 * The requests under way, and their rows in the order of their numbers.
 *
 * A request is added when its time has come and ends once; its row is written when every earlier one has ended too. The
 * oldest that has not ended is therefore the first here, and, since each one's time is up no sooner than that of the
 * one before, also the next whose time is up.
 */
#pragma once
#include "rows.h"

/* So many may be under way. Beyond, the oldest is given up. */
#define REQUESTS_MAX (UINT64_C(1) << 20)

struct request {
    uint64_t seq, due_ns, sent_ns, done_ns, deadline_ns;
    uint64_t bytes;
    uint32_t connection; /* ROW_NO_CONNECTION until it has one */
    uint32_t item;       /* the kind's own: which of a mix */
    uint64_t choice;     /* the kind's own */
    const char *kind;    /* as the row names it; not owned */
    enum status status;
};

struct requests {
    struct request *ring; /* owned; `capacity` is a power of two */
    uint64_t capacity;
    uint64_t first, next; /* numbers of the oldest not ended, and of the next to be added */
    uint64_t ended[STATUS_MAX];
    struct rows *rows;
};

int requests_init(struct requests *requests, struct rows *rows) MUST_CHECK;
void requests_free(struct requests *requests);

/* The next request; the pointer is good until another is added. Never NULL. Where there is no room for it,
 * the oldest has ended as unsent; an answer to that one finds it gone. */
struct request *requests_add(struct requests *requests, uint64_t due_ns, uint64_t deadline_ns,
                             const char *kind);

/* A request under way, or NULL: it never was, or has ended. */
struct request *requests_find(struct requests *requests, uint64_t seq);

static inline struct request *requests_oldest(struct requests *requests)
{
    return requests->first == requests->next
               ? NULL
               : &requests->ring[requests->first & (requests->capacity - 1)];
}

/* Ends it: `at_ns` is when that was known, 0 when nothing happened. Writes what rows it can. */
void requests_end(struct requests *requests, struct request *request, enum status status,
                  uint64_t at_ns);
