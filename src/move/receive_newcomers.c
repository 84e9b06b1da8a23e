/*
 * Connections that are not the move's, or not yet: who may come in, what those hear that cannot be served, and
 * dropping those that say nothing. None of it waits, but for the answer to a check.
 */
#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "move/admit.h"
#include "move/dryrun.h"
#include "move/receive_impl.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Only a receiver with nothing to do answers at once; another says that it is busy, as to any newcomer. */
bool receive_asks_for_check(const struct receiving *r)
{
    return r->incoming.type == MESSAGE_HELLO && r->incoming.hello.check &&
           r->engine.state == TARGET_LISTENING;
}

/* The engine never hears of it: nothing is begun that it could have to end. */
void receive_serve_dryrun(struct receiving *r, struct wire *wire)
{
    struct err err = { 0 };
    if (dryrun_serve(r->env, r->host, r->incoming.hello.mode, wire, &err))
        log_event(LOG_WARN, "move.check", "%s", err.text);
    wire_close(wire);
}

/* A newcomer whose stream or message is of a version unknown here hears so; its move never reached the engine. */
void receive_refuse_version(struct receiving *r, struct wire *wire, const struct err *why)
{
    struct message abort = { .type = MESSAGE_ABORT,
                             .abort = { .reason = REASON_VERSION, .fault = ERR_PEER } };
    char host[64] = "";
    (void)gethostname(host, sizeof(host) - 1);
    (void)snprintf(abort.abort.text, sizeof(abort.abort.text), "%s has godwit %s: %s", host,
                   GODWIT_VERSION, why->text);
    LOG_RATED(LOG_WARN, "move.newcomer", "%s", why->text);
    receive_send(r, wire->conn, &abort);
    receive_close(r, wire->conn);
}

/* A free place; or that of whoever has had longest to prove who it is: so strangers, however many, cannot
 * keep a peer out. NULL: all are taken by peers, as receive_has_room() knows. */
static struct wire *make_room(struct receiving *r)
{
    struct wire *oldest = NULL;
    for (unsigned i = 0; i < CONNS_MAX; i++) {
        struct wire *wire = &r->wire[i];
        if (wire->conn == 0)
            return wire;
        if (wire->phase != WIRE_OPEN && (!oldest || wire->since_ns < oldest->since_ns))
            oldest = wire;
    }
    if (oldest)
        wire_close(oldest);
    return oldest;
}

/* Without room for one more, newcomers wait in the queue of the listening socket. */
bool receive_has_room(const struct receiving *r)
{
    for (unsigned i = 0; i < CONNS_MAX; i++)
        if (r->wire[i].conn == 0 || r->wire[i].phase != WIRE_OPEN)
            return true;
    return false;
}

void receive_accept(struct receiving *r)
{
    CLEANUP_FD int fd = accept4(r->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    struct wire *free_wire = fd < 0 ? NULL : make_room(r);
    if (!free_wire)
        return; /* more than we serve: closed, and the source tries again */
    *free_wire =
        (struct wire){ .link = LINK_NONE, .conn = ++r->last_conn, .since_ns = clock_now_ns() };
    free_wire->link.cancel_fd = r->env->cancel_fd;
    free_wire->link.stall_limit_ns = r->engine.config.stall_limit_ns;
    if (admit_begin(free_wire, r->env, TAKE_FD(fd)))
        free_wire->conn = 0;
}

void receive_drop_silent(struct receiving *r, uint64_t now)
{
    for (unsigned i = 0; i < CONNS_MAX; i++) {
        struct wire *wire = &r->wire[i];
        if (wire->conn && wire->conn != r->engine.conn &&
            now - wire->since_ns > NEWCOMER_LIMIT_NS) {
            if (wire->phase != WIRE_DISMISSED)
                LOG_RATED(LOG_WARN, "move.silent", "a connection that said nothing was closed");
            receive_close_wire(r, wire);
        }
    }
}
