/*
 * A machine on its way in, from a socket or a file: what its stream said so far, and the machine those
 * sections are applied to.
 *
 *     MACHINE, CPUID  -> arrival_fit()  -> arrival_create() -> PAGES..., VM, VCPU..., devices
 *                        (does it fit?)    (held, paused)      -> arrival_complete()
 *
 * Decoded and checked before anything is created; the machine never runs before arrival_complete().
 */
#pragma once
#include "move/link.h"
#include "move/page_sink.h"
#include "vm/fit.h"
#include "vm/machine.h"

/* What the place it arrives at provides. */
struct arrival_host {
    bool fake; /* the fake hypervisor */
    const struct machine_hooks *hooks;
    struct meter *meter;
    struct loop *loop;
    /* Runs fn(arg) on the loop's thread and returns when it has: machines are made and freed there. */
    void (*on_loop)(void *ctx, void (*fn)(void *arg), void *arg);
    /* Where this host keeps each device: fills `host` for `config`. */
    int (*place)(void *ctx, const struct machine_config *config, struct host_config *host,
                 struct err *err);
    /* What this host has for a guest of so many bytes; if they fit and are to be held, nobody else is promised them.
     * NULL: nothing is promised here, what is available counts. */
    int (*memory)(void *ctx, uint64_t bytes, bool hold, struct host_memory *ret, struct err *err);
    /* Of what is held: it has been made, as `mem`; NULL: it is not needed any more. With memory(). */
    void (*memory_made)(void *ctx, const struct mem *mem);
    void *ctx;
};

struct arrival {
    struct arrival_host host;
    bool have_config, have_cpuid;
    bool
        in_parts; /* its guest may run before all of its memory is here: pages must be told apart */
    struct machine_config config;
    struct hv_cpuid cpuid;
    struct machine_fds fds;
    bool holds_fds, holds_memory;
    struct machine *machine; /* arrival's until arrival_take() */
    struct page_sink sink;
    struct machine_seen seen;
    uint64_t state_bytes;
};

/* A new arrival; large, so on the heap. NULL: out of memory. */
struct arrival *arrival_new(const struct arrival_host *host);

/* Frees it and whatever of the machine it still holds. */
void arrival_free(struct arrival *arrival);

/* Takes in one section whose head has just been read; *handled is false (and the body unread) for a type
 * that is no part of a machine. */
int arrival_section(struct arrival *arrival, struct link *link, const struct section *section,
                    bool *handled, struct err *err) MUST_CHECK;

/* The same for a MACHINE or CPUID section whose body has been received and checked. */
int arrival_facts(struct arrival *arrival, const struct section *section, const void *body,
                  struct err *err) MUST_CHECK;

/* Whether this host can run what MACHINE and CPUID described; on an empty report its needs are held, of memory only
 * with `hold`: without, nobody else is refused what was only asked for. */
int arrival_fit(struct arrival *arrival, bool hold, struct fit_report *report,
                struct err *err) MUST_CHECK;

/* Creates the machine, paused. After an arrival_fit() with an empty report. */
int arrival_create(struct arrival *arrival, struct err *err) MUST_CHECK;

/* Waits until all pages are in memory, and checks that every part of the state has come. */
int arrival_complete(struct arrival *arrival, struct err *err) MUST_CHECK;

/* The machine, the caller's from here on, and so is the memory that was promised to it. */
struct machine *arrival_take(struct arrival *arrival);
