#include "vmm/inside.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "dev/virtio_vsock.h"
#include "vmm/monitor.h"
#include "vmm/mover.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>

#define HELLO_LIMIT_NS (3 * CLOCK_SECOND)
#define BEFORE_LIMIT_NS (2 * CLOCK_SECOND) /* a move is held up no longer by the agent */
#define AFTER_LIMIT_NS (5 * CLOCK_SECOND)
#define RESTORE_BY_ITSELF_NS (60 * CLOCK_SECOND) /* the agent, if it hears nothing more */
#define RESTORES 4 /* attempts after an arrival, the later the further apart */
#define AGAIN_NS (500 * CLOCK_MSEC)

static int dial_agent(void *ctx, int *ret_fd)
{
    return virtio_vsock_connect(ctx, AGENT_PORT, ret_fd);
}

static const char *why(int rc)
{
    switch (rc) {
    case -ENOTCONN:
        return "the guest has no vsock driver";
    case -ECONNREFUSED:
        return "no agent answers in the guest";
    case -ETIMEDOUT:
        return "the agent did not answer in time";
    case -EPROTO:
        return "the agent's answer is none";
    case -EREMOTEIO:
        return "the agent does not know the request";
    case -ECANCELED:
        return "cancelled";
    default:
        return strerror(-rc);
    }
}

/* -------------------------------------------------------------------------------- self-migration */

static void on_guest(void *ctx, int fd, uint32_t guest_port)
{
    self_move_accept(&((struct monitor *)ctx)->inside.self, fd, guest_port);
}

static int may_move(void *ctx, const char *target, struct err *err)
{
    const struct vmm_options *options = ((struct monitor *)ctx)->options;
    for (unsigned i = 0; i < options->self_migrate_count; i++)
        if (strcmp(options->self_migrate[i], "any") == 0 ||
            strcmp(options->self_migrate[i], target) == 0)
            return 0;
    return options->self_migrate_count == 0
               ? err_set(err, ERR_GUEST, EPERM, "this host does not allow its guest to move itself")
               : err_set(err, ERR_GUEST, EPERM, "this host does not allow its guest to move there");
}

static int start_move(void *ctx, const char *id, const char *target, struct err *err)
{
    struct monitor *monitor = ctx;
    struct mover_request request = mover_request_default();
    (void)snprintf(request.target, sizeof(request.target), "%s", target);
    if (monitor->state != MONITOR_RUNNING || monitor->mover)
        return err_set(err, ERR_CALLER, EBUSY, "it is %s", monitor_state_name(monitor->state));
    virtio_vsock_set_ticket(monitor->inside.dev, id); /* before anything can be saved */
    int rc = mover_start(monitor, &request, err);
    if (rc)
        virtio_vsock_set_ticket(monitor->inside.dev, "");
    return rc;
}

/* ------------------------------------------------------------------------------------ the restoring */

static void on_restored(void *arg, const struct agent_reply *reply)
{
    struct monitor *monitor = arg;
    struct inside *inside = &monitor->inside;
    if (reply->rc == -ECANCELED)
        return; /* for something newer */
    if (reply->rc && inside->restores_left > 0) {
        uint64_t tries = RESTORES - inside->restores_left;
        loop_timer_set(&inside->again, clock_now_ns() + tries * AGAIN_NS);
        return;
    }
    inside->restores_left = 0;
    if (!reply->present && reply->rc != -ETIMEDOUT)
        return; /* there is no agent: nothing was done that would have to be undone */
    if (reply->rc)
        log_event(LOG_WARN, "agent.restored", "%s", why(reply->rc));
    else
        log_event(LOG_INFO, "agent.restored", "%llu groups and tasks of the guest",
                  (unsigned long long)reply->restored);
    rpc_post_event(monitor->rpc, "agent.restored",
                   json_pack("{s:I, s:I, s:s?}", "restored", (json_int_t)reply->restored, "ns",
                             (json_int_t)reply->took_ns, "failure",
                             reply->rc ? why(reply->rc) : NULL));
}

static void ask_restore(struct monitor *monitor)
{
    struct inside *inside = &monitor->inside;
    if (inside->restores_left > 0)
        inside->restores_left--;
    agent_ask(&inside->agent,
              &(struct agent_request){ .verb = AGENT_AFTER, .limit_ns = AFTER_LIMIT_NS },
              on_restored, monitor);
}

static void on_again(struct loop_source *source, uint32_t events)
{
    struct inside *inside = CONTAINER_OF(source, struct inside, again);
    (void)events;
    (void)loop_drain(source->fd);
    if (inside->restores_left > 0)
        ask_restore(CONTAINER_OF(inside, struct monitor, inside));
}

void inside_restore(struct monitor *monitor, bool arrived)
{
    if (!monitor->inside.dev)
        return;
    monitor->inside.restores_left = arrived ? RESTORES : 1;
    ask_restore(monitor);
}

void inside_arrived(struct monitor *monitor)
{
    char ticket[VSOCK_TICKET_MAX];
    struct inside *inside = &monitor->inside;
    if (!inside->dev)
        return;
    virtio_vsock_ticket(inside->dev, ticket);
    virtio_vsock_set_ticket(inside->dev, "");
    self_move_arrived(&inside->self, ticket);
    inside_restore(monitor, true);
}

void inside_stayed(struct monitor *monitor, const struct err *err)
{
    if (!monitor->inside.dev)
        return;
    virtio_vsock_set_ticket(monitor->inside.dev, "");
    self_move_failed(&monitor->inside.self, err);
}

/* -------------------------------------------------------------------------------- before the last round */

struct asking {
    struct monitor *monitor;
    bool slow, answered;
    struct agent_reply reply;
    int done_fd;
};

static void on_prepared(void *arg, const struct agent_reply *reply)
{
    struct asking *asking = arg;
    asking->reply = *reply;
    asking->answered = true;
    (void)eventfd_write(asking->done_fd, 1);
}

static void begin_asking(void *arg)
{
    struct asking *asking = arg;
    asking->monitor->inside.restores_left = 0; /* of a move before */
    agent_ask(&asking->monitor->inside.agent,
              &(struct agent_request){ .verb = AGENT_BEFORE,
                                       .slow = asking->slow,
                                       .restore_ns = RESTORE_BY_ITSELF_NS,
                                       .limit_ns = BEFORE_LIMIT_NS },
              on_prepared, asking);
}

static void end_asking(void *arg)
{
    struct asking *asking = arg;
    if (!asking->answered)
        agent_cancel(&asking->monitor->inside.agent);
}

void inside_prepare(struct monitor *monitor,
                    void (*on_loop)(void *ctx, void (*fn)(void *arg), void *arg), void *ctx,
                    int cancel_fd, bool slow, struct bill_agent *ret)
{
    uint64_t began_ns = clock_now_ns();
    struct asking asking = { .monitor = monitor, .slow = slow };
    asking.done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (asking.done_fd < 0) {
        asking.reply.rc = -errno;
    } else {
        on_loop(ctx, begin_asking, &asking);
        struct pollfd fds[] = { { .fd = asking.done_fd, .events = POLLIN },
                                { .fd = cancel_fd, .events = POLLIN } };
        while (poll(fds, 2, -1) < 0 && errno == EINTR)
            ;                              /* the agent has its own limit */
        on_loop(ctx, end_asking, &asking); /* from here on nobody calls back */
        (void)close(asking.done_fd);
    }
    const struct agent_reply *reply = &asking.reply;
    *ret = (struct bill_agent){ .present = reply->present,
                                .page_cache_bytes = reply->page_cache_bytes,
                                .slowed = reply->slowed,
                                .ns = clock_now_ns() - began_ns };
    if (reply->rc) {
        (void)snprintf(ret->failure, sizeof(ret->failure), "%s", why(reply->rc));
        log_event(LOG_INFO, "agent.before", "%s", ret->failure);
        return;
    }
    log_event(LOG_INFO, "agent.before", "%llu bytes of page cache given back, %llu slowed",
              (unsigned long long)reply->page_cache_bytes, (unsigned long long)reply->slowed);
}

/* ------------------------------------------------------------------------------------------------ hello */

static void on_hello(void *arg, const struct agent_reply *reply)
{
    struct rpc_call *call = arg;
    struct err err;
    if (reply->rc) {
        (void)err_set(&err, ERR_GUEST, -reply->rc, "%s", why(reply->rc));
        rpc_fail(call, &err);
        return;
    }
    rpc_reply(call, json_pack("{s:s, s:I, s:b, s:I, s:I}", "version", reply->version, "protocol",
                              (json_int_t)reply->protocol, "page_cache", reply->page_cache != 0,
                              "slow_rules", (json_int_t)reply->slow, "answer_ns",
                              (json_int_t)reply->took_ns));
}

void inside_hello(struct monitor *monitor, struct rpc_call *call)
{
    struct err err;
    if (!monitor->inside.dev)
        (void)err_set(&err, ERR_CALLER, ENODEV, "%s has no vsock device", monitor->dir.name);
    else if (monitor->inside.agent.fn)
        (void)err_set(&err, ERR_CALLER, EBUSY, "the agent is being asked something else");
    else {
        agent_ask(&monitor->inside.agent,
                  &(struct agent_request){ .verb = AGENT_HELLO, .limit_ns = HELLO_LIMIT_NS },
                  on_hello, call);
        return;
    }
    rpc_fail(call, &err);
}

/* ------------------------------------------------------------------------------------ coming and going */

int inside_attach(struct monitor *monitor, struct err *err)
{
    struct inside *inside = &monitor->inside;
    struct dev *dev = machine_vsock(monitor->machine);
    if (!dev)
        return 0;
    struct vsock_host host = { .listen_fd = -1,
                               .dir_fd = fcntl(monitor->dir.dir_fd, F_DUPFD_CLOEXEC, 3),
                               .service = {
                                   .port = AGENT_PORT, .accept = on_guest, .ctx = monitor } };
    const struct self_move_calls calls = { .ctx = monitor,
                                           .allowed = may_move,
                                           .start = start_move };
    int rc = host.dir_fd < 0 ? err_errno(err, ERR_HOST, errno, "vsock")
                             : rundir_listen(&monitor->dir, VSOCK_SOCKET, &host.listen_fd, err);
    if (rc) {
        fd_close(&host.dir_fd);
        return rc;
    }
    self_move_init(&inside->self, &monitor->loop, &calls);
    rc = virtio_vsock_attach(dev, &host);
    if (!rc)
        rc = agent_init(&inside->agent, &monitor->loop, dial_agent, dev);
    if (!rc)
        rc = loop_timer_add(&monitor->loop, &inside->again, on_again);
    if (rc)
        return err_errno(err, ERR_HOST, -rc, "cannot serve vsock");
    inside->dev = dev;
    return 0;
}

void inside_detach(struct monitor *monitor)
{
    struct inside *inside = &monitor->inside;
    inside->dev = NULL;
    if (inside->agent.loop) {
        agent_cancel(&inside->agent); /* a call of the control socket may wait for it */
        agent_fini(&inside->agent);
    }
    self_move_fini(&inside->self);
    loop_timer_remove(&inside->again);
}
