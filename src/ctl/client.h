/*
 * The control socket from the other side: blocking calls with a time limit. One thread.
 *
 * Notifications that arrive while waiting for a reply, or in client_wait(), go to the event
 * function. It must not call back into the client.
 */
#pragma once
#include "base/compiler.h"
#include "base/err.h"
#include <jansson.h>
#include <stdint.h>

struct client;
typedef void client_event_fn(void *ctx, const char *event, const json_t *params);

/* Connects to the monitor of VM `name` under `base` (rundir_base()). -ENOENT: there is none. */
int client_open(const char *base, const char *name, struct client **ret,
                struct err *err) MUST_CHECK;
/* The same over a connected stream socket, which becomes the client's. `name` is for messages. */
int client_open_fd(int fd, const char *name, struct client **ret, struct err *err) MUST_CHECK;
void client_close(struct client *client);

/* Subscribes and sets the event function. */
int client_subscribe(struct client *client, client_event_fn *fn, void *ctx,
                     struct err *err) MUST_CHECK;

/* Calls `method` with `params` (stolen; NULL = none) and waits at most `limit_ns` for its answer.
 * *ret (may be NULL) is a new reference. -ETIMEDOUT: no answer yet, and it will be ignored when it
 * comes; -ECONNRESET: the monitor has gone; else -errno of the monitor's error, whose text and
 * fault `err` then has. */
int client_call(struct client *client, const char *method, json_t *params, uint64_t limit_ns,
                json_t **ret, struct err *err) MUST_CHECK;

/* Waits for at least one notification. 0; -ETIMEDOUT; -EINTR after a signal; -ECONNRESET when the
 * monitor has gone. `err` is filled for none of these but protocol errors. */
int client_wait(struct client *client, uint64_t limit_ns, struct err *err) MUST_CHECK;

/* Waits until the monitor's process has ended, and with it everything it held (its name too).
 * -ETIMEDOUT. */
int client_wait_exit(const struct client *client, uint64_t limit_ns) MUST_CHECK;

/* Ends the monitor's process, whatever it is doing (SIGKILL). */
int client_kill(const struct client *client, struct err *err) MUST_CHECK;

/* The socket, to poll for EPOLLIN together with other descriptors before a client_wait(). */
int client_fd(const struct client *client);
