/*
 * The source's bulk lanes: up to 16 connections that carry the pages of the rounds, each served by a thread of
 * its own. A lane takes bounded work from the shared page_source; copying, checksumming and sending happen
 * outside its lock. So whoever drives the move waits on descriptors and never in a send.
 *
 *     pump                                        lanes
 *     lanes_out_begin(round, pages)  --------->   connect if need be; take, make, send ... until nothing is left
 *     lanes_out_tune() now and then  --------->   one more joins, or one is sent to rest
 *     event_fd readable              <---------   the last one is idle, or one failed and all are idle
 *     lanes_out_end()                             what they sent, or the first failure
 *
 * While no round is open every lane is idle: it holds no page and touches no guest memory. lanes_out_end()
 * checks that.
 *
 * How many take part: as many as asked for, or (automatic) as many as measured worth it. A round begins with
 * those the last one ended with. Every TUNE_NS one more joins if the last one that joined made the bytes a
 * second grow by more than a tenth, and the senders have not used up this host's CPUs; one that did not help
 * is sent to rest, and then it stays so for the move. One that is tried connects while nobody waits for it, and
 * joins the open round once it has; if that is over, it is tried again; if it cannot connect, the move goes on with
 * those there are. Few pages are not worth waking anybody: the pump sends them itself, on the control connection
 * (LANES_OUT_FEW_PAGES).
 *
 * Threads: everything here is called by the pump's thread.
 */
#pragma once
#include "cost/meter.h"
#include "move/bucket.h"
#include "move/page_maker.h"
#include "move/wire.h"
#include <pthread.h>
#include <stdatomic.h>

#define LANES_OUT_FEW_PAGES 256
#define LANES_OUT_AUTO 0

struct lanes_out_config {
    const char *address; /* HOST:PORT; borrowed */
    const struct trust *trust;
    bool insecure; /* as of wire_connect() */
    uint8_t token[MOVE_TOKEN_BYTES];
    uint32_t beside;  /* of LANE */
    unsigned granted; /* 1 to MOVE_LANES_MAX: connections the target takes */
    unsigned wanted;  /* how many take part, or LANES_OUT_AUTO; at most granted */
    uint64_t stall_limit_ns;
    struct meter *meter;
    struct bucket *bucket;  /* the limit; borrowed */
    struct page_memo *memo; /* borrowed */
    enum packing_mode packing;
    unsigned page_forms; /* granted */
};

struct lane_out {
    struct lanes_out *set;
    unsigned index;
    struct wire wire;
    struct page_maker maker; /* its counts are the lane's share of the round */
    pthread_t thread;
    bool started;
    bool running;                 /* part of the open round; under the set's lock */
    bool trying;                  /* connects beside it; under the set's lock */
    _Atomic(uint64_t) sent_bytes; /* of the whole move */
    _Atomic(uint64_t) wire_sent_bytes, wire_received_bytes; /* the same, encrypted; 0 = plain */
    uint64_t unsent_bytes;     /* of a section that was given up in the middle */
    _Atomic(uint64_t) send_ns; /* of the whole move: spent sending, not looking for pages */
    _Atomic(uint64_t) cpu_ns;  /* of its thread, as of its last section */
};

struct lanes_out {
    struct lanes_out_config config;
    struct page_source *source; /* NULL = not in use */
    int stop_fd;                /* readable: sends are given up */
    int event_fd;               /* readable: lanes_out_end() has something to say */

    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool ending;
    bool open;     /* set by the pump */
    unsigned busy; /* lanes in the open round */
    uint16_t instance;
    int failed; /* the first -errno */
    struct err err;
    atomic_bool give_up;
    _Atomic(unsigned) awake; /* lanes that may take part: those of a lower index */
    _Atomic(unsigned) most;  /* lanes awake at once, ever */
    atomic_bool trying;      /* a lane is; set by the pump, ended by the lane */
    atomic_bool settled;     /* automatic: no further lane helps, or none can be had */

    /* the pump's */
    bool halted;
    bool pushing; /* set before a round begins */
    uint64_t tuned_ns, tuned_bytes, tuned_cpu_ns, rate_before;
    uint64_t round_send_ns[MOVE_LANES_MAX]; /* as the round began */
    struct lane_out lane[MOVE_LANES_MAX];
};

int lanes_out_init(struct lanes_out *lanes, const struct lanes_out_config *config,
                   struct page_source *source) MUST_CHECK;

/* Gives up what is being sent and joins every thread: what they counted is final. */
void lanes_out_halt(struct lanes_out *lanes);
/* The same, and closes every lane. Harmless on zeroed ones. */
void lanes_out_fini(struct lanes_out *lanes);

/* Post-copy: what is sent from now on comes from `source`, none of it was remembered, and the lanes keep their queues
 * short. No round is open. */
void lanes_out_push(struct lanes_out *lanes, struct page_source *source);

/* Lets the lanes send the round that page_source_begin() began, of about `pages` pages. */
int lanes_out_begin(struct lanes_out *lanes, uint16_t instance, uint64_t pages) MUST_CHECK;

/* Every 100 ms or so while a round is open: sets how many lanes take part. */
void lanes_out_tune(struct lanes_out *lanes);

/* After event_fd was readable. -EAGAIN: the round goes on. 0: it is sent whole, and *ret is what it had. Else the
 * first failure, and no lane can be used again. */
int lanes_out_end(struct lanes_out *lanes, struct page_count *ret, struct err *err) MUST_CHECK;

/* What the lanes have made of the open or last round, and how many bytes of it were given up unsent: after
 * lanes_out_end() or lanes_out_halt(). */
void lanes_out_count(const struct lanes_out *lanes, struct page_count *ret);
uint64_t lanes_out_unsent(const struct lanes_out *lanes);

/* Of the whole move, at any time. */
uint64_t lanes_out_bytes(const struct lanes_out *lanes);

/* Of the open or last round: how long a lane was sending, not looking for pages, in the mean. */
uint64_t lanes_out_send_ns(const struct lanes_out *lanes);
