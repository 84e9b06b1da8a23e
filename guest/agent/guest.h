/*
 * godwit-agent: what only the inside of a guest can do for a move.
 *
 * A static program for any Linux guest with a vsock device; it needs no library and no privilege
 * but root's. `godwit-agent` serves the monitor, `godwit-agent migrate HOST` asks it to move this
 * guest, `godwit-agent observe` measures what a guest notices (observe.h). docs/agent.md has the
 * protocols and the configuration. One thread, but for `observe`.
 *
 * Served are only lines from the host (CID 2), each checked before anything is done. All that the
 * agent may do is in its configuration: the host can ask for nothing that is not there, and an
 * agent without a configuration does nothing to its guest.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define GUEST_PROTOCOL 1
#define GUEST_PORT 1021     /* of the agent in the guest, and of the monitor's service (CID 2) */
#define GUEST_LINE_MAX 512  /* with the newline */
#define GUEST_RULES_MAX 8   /* of each kind */
#define GUEST_TASKS_MAX 256 /* slowed at a time */
#define GUEST_LIMIT_MS_MAX 600000

struct guest_config {
    bool drop_page_cache;
    char freeze[GUEST_RULES_MAX][200]; /* cgroups, relative to where cgroup v2 is mounted */
    unsigned freeze_count;
    char idle[GUEST_RULES_MAX][16]; /* process names, as in /proc/PID/comm */
    unsigned idle_count;
    unsigned limit_ms; /* what was slowed is restored after so long at the latest */
    unsigned observe_tcp, observe_vsock; /* ports of `observe`; 0 = not allowed */
    unsigned observe_period_ms;
};

struct guest_task {
    pid_t tid;
    uint64_t start; /* tells it from a later one of the same number */
    int policy;     /* before */
};

struct guest {
    struct guest_config config;
    const char *proc, *cgroup; /* where these are mounted */

    bool frozen[GUEST_RULES_MAX]; /* by us */
    struct guest_task task[GUEST_TASKS_MAX];
    unsigned task_count;
    uint64_t restore_at_ms; /* 0 = nothing is slowed */
};

uint64_t guest_now_ms(void);

/* config.c. Fills *config from the text of a configuration file. 0, or the number of the line that
 * is wrong, with what is wrong in *ret_why. */
unsigned guest_config_parse(struct guest_config *config, const char *text, const char **ret_why);
/* The same from a file; one that is missing leaves the defaults. False: said why on stderr. */
bool guest_config_read(struct guest_config *config, const char *path);

/* calm.c. Each returns how many: bytes given back, groups and tasks slowed, and restored. */
uint64_t guest_give_back(struct guest *guest);
unsigned guest_slow(struct guest *guest, uint64_t limit_ms);
unsigned guest_restore(struct guest *guest);
/* At the start: thaws what an agent that was killed may have left frozen. */
void guest_thaw_leftovers(struct guest *guest);

/* serve.c. Answers one request line (without its newline) into `reply` (with one). */
void guest_answer(struct guest *guest, const char *line, char *reply, size_t size);
/* Serves one connection until it ends or says nothing for a while; closes it. `signal_fd`: ends it
 * when readable; -1 = none. */
void guest_serve_connection(struct guest *guest, int fd, int signal_fd);
/* Serves until SIGTERM or SIGINT; the exit status. */
int guest_serve(struct guest *guest);

/* migrate.c. Follows one request over connections that `dial` makes (a descriptor or -1), for at most
 * `patience_ms` without one. Writes what came of it to `said`; the exit status: 0 moved, 1 refused
 * or failed, 3 unknown. */
int guest_follow_move(int (*dial)(void *ctx), void *ctx, const char *id, const char *target,
                      uint64_t patience_ms, char *said, size_t size);
int guest_migrate(const char *target);

/* vsock.c. Descriptors, or -1 with errno. */
int guest_vsock_listen(unsigned port);
/* The next connection that comes from the host; -1: it was someone else's. */
int guest_vsock_accept(int listen_fd);
/* To a port of the host, from a port that only root may use. */
int guest_vsock_dial(unsigned port);
