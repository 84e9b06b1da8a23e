/*
 * The probe: one thread, one loop.
 *
 * Request n is due at start + n / rate, whatever became of earlier ones. When it is due, the kind is told to fire it:
 * it adds it to the requests under way and sends it, or keeps it until a connection is free. A request whose time is up
 * ends as `timeout`, and the kind is told to abandon it. Latency counts from the due time, so that neither a queue nor
 * a stall is hidden.
 *
 * Kinds that receive unasked (stream, arrivals) put their rows themselves.
 */
#pragma once
#include "base/clock.h"
#include "base/loop.h"
#include "late.h"
#include "options.h"
#include "requests.h"
#include "rows.h"

struct probe;

struct kind_ops {
    /* Opens sockets. An error means that nothing can ever be asked. */
    int (*open)(struct probe *probe, struct err *err);
    /* A request is due. NULL: this kind does not ask. */
    void (*fire)(struct probe *probe, uint64_t due_ns, uint64_t now_ns);
    /* This request's time is up; its row says so by now. NULL: nothing to do. */
    void (*abandon)(struct probe *probe, const struct request *request);
    /* What is to be done by the clock. Returns when to be called next (CLOCK_NEVER: not). NULL: nothing. */
    uint64_t (*turn)(struct probe *probe, uint64_t now_ns);
    /* Closes everything; rows that are begun are put. */
    void (*close)(struct probe *probe, uint64_t now_ns);
};

extern const struct kind_ops session_kind;  /* http, tcp, resp */
extern const struct kind_ops datagram_kind; /* udp, icmp */
extern const struct kind_ops stream_kind;
extern const struct kind_ops arrivals_kind;

enum probe_end { PROBE_RUNS, PROBE_END_TIME, PROBE_END_LIMIT, PROBE_END_SIGNAL, PROBE_END_ERROR };

struct probe {
    struct options options;
    const struct kind_ops *kind;
    void *state; /* the kind's own */
    struct loop loop;
    struct loop_source timer, signals;
    struct rows rows, late_rows; /* late_rows.fd is -1 where nobody asked for it */
    struct late late;
    struct requests requests;
    uint64_t seed;       /* of the mix, as it goes on */
    uint64_t cookie;     /* tells our echoes from another probe's */
    uint64_t start_ns;   /* when the first request was due */
    uint64_t end_ns;     /* of --for; CLOCK_NEVER */
    uint64_t ended_ns;   /* when the last was over; 0 while it runs */
    uint64_t fired;      /* requests that became due so far */
    uint64_t put;        /* rows of kinds that put their own */
    uint64_t strays;     /* what came and belonged to no request under way */
    uint64_t troubles;   /* requests that this side's own trouble kept from being sent */
    uint64_t silence_ns; /* the longest time between two answers */
    uint64_t heard_ns;   /* when the last one came */
    bool fifo;           /* runs under SCHED_FIFO */
    unsigned stops;      /* signals so far */
    enum probe_end end;
};

int probe_open(struct probe *probe, struct err *err) MUST_CHECK;
/* Runs to the end. The error is the rows' or the loop's; all that was learned is in the files in any case. */
int probe_run(struct probe *probe, struct err *err) MUST_CHECK;
void probe_close(struct probe *probe);

/* Each answer, by whichever kind: keeps account of silence. */
void probe_heard(struct probe *probe, uint64_t now_ns);

/* Ends a request for a call on this side that failed. */
void probe_trouble(struct probe *probe, struct request *request, int code, uint64_t now_ns);

/* docs/measure.md, probe-NAME.json. Replaces the file; nothing to do where there is none. */
int facts_write(const struct probe *probe, struct err *err) MUST_CHECK;

/* What an echo carries: the probe's cookie, the number, and a pattern; `len` >= 16 bytes at `bytes`. */
void echo_fill(uint8_t *bytes, size_t len, uint64_t cookie, uint64_t seq);
