/*
 * http, tcp, resp: questions over kept connections.
 *
 * A request that is due takes the next free connection in turn; when none is free it waits, first come, first served,
 * and its latency counts all the while. One that had to wait for half its time is given up unsent: with less left for
 * the answer than for the queue, a server that is slow for a while would from then on only work for requests whose time
 * is up before it is done. A connection that broke is opened again for the next request that takes it. One on which a
 * request's time was up is closed: its answer might still come, and be taken for another's.
 */
#include "session.h"
#include "connect.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct sessions {
    const struct session_ops *ops;
    uint64_t waiting; /* number of the first request that has no connection yet */
    uint32_t turn;    /* where to look for a free connection */
    uint32_t count;
    bool placing; /* place_waiting() is at work */
    struct session session[];
};

static void place_waiting(struct probe *probe);

static void shut(struct session *session)
{
    int fd = session->source.fd;
    if (session->state == SESSION_SHUT)
        return;
    loop_remove(&session->source);
    session->state = SESSION_SHUT;
    (void)close(fd);
}

/* Its request, if that has not ended yet. */
static struct request *request_of(const struct session *session)
{
    return session->busy ? requests_find(&session->probe->requests, session->seq) : NULL;
}

/* The request is over, as `status` says; the connection is free for the next. */
static void finish(struct session *session, enum status status, uint64_t now)
{
    struct request *request = request_of(session);
    session->busy = false;
    if (request)
        requests_end(&session->probe->requests, request, status, now);
    place_waiting(session->probe);
}

static void lose(struct session *session, enum status status)
{
    shut(session);
    finish(session, status, clock_now_ns());
}

/* A call of ours failed. */
static void fail(struct session *session, int code)
{
    struct request *request = request_of(session);
    shut(session);
    session->busy = false;
    if (request)
        probe_trouble(session->probe, request, code, clock_now_ns());
    place_waiting(session->probe);
}

static void send_some(struct session *session)
{
    struct request *request = request_of(session);
    while (session->busy && session->sent < session->out.len) {
        uint64_t now = clock_now_ns();
        ssize_t n = send(session->source.fd, session->out.data + session->sent,
                         session->out.len - session->sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            break;
        if (n < 0) {
            fail(session, errno);
            return;
        }
        if (request && session->sent == 0)
            request->sent_ns = now;
        session->sent += (size_t)n;
    }
    bool more = session->busy && session->sent < session->out.len;
    int rc = loop_change(&session->source, more ? EPOLLIN | EPOLLOUT : EPOLLIN);
    if (rc)
        fail(session, -rc);
}

static void take(struct session *session, const uint8_t *bytes, size_t len, uint64_t now)
{
    const struct session_ops *ops = ((struct sessions *)session->probe->state)->ops;
    struct request *request = request_of(session);
    size_t used = 0;
    if (!request || session->sent == 0) {
        session->probe->strays++; /* nothing was asked */
        lose(session, STATUS_BAD);
        return;
    }
    enum answer answer = ops->feed(session, bytes, len, &used);
    request->bytes += used;
    if (answer == ANSWER_MORE)
        return;
    bool right = answer == ANSWER_DONE && used == len && ops->right(session, request);
    if (right)
        probe_heard(session->probe, now);
    /* An answer before the question was whole leaves the rest of it on the connection. */
    if (answer == ANSWER_BAD || used < len || session->sent < session->out.len ||
        (ops->kept && !ops->kept(session)))
        shut(session);
    finish(session, right ? STATUS_OK : STATUS_BAD, now);
}

static void take_end(struct session *session, uint64_t now)
{
    const struct session_ops *ops = ((struct sessions *)session->probe->state)->ops;
    struct request *request = request_of(session);
    bool whole = request && session->sent && ops->eof && ops->eof(session) == ANSWER_DONE;
    bool right = whole && ops->right(session, request);
    shut(session);
    if (right)
        probe_heard(session->probe, now);
    finish(session, right ? STATUS_OK : whole ? STATUS_BAD : STATUS_CLOSED, now);
}

static void receive(struct session *session)
{
    static uint8_t bytes[65536];
    /* Not for ever: the others, and the next due time, wait. */
    for (unsigned i = 0; i < 16 && session->state == SESSION_OPEN; i++) {
        ssize_t n = recv(session->source.fd, bytes, sizeof(bytes), 0);
        uint64_t now = clock_now_ns();
        if (n > 0) {
            take(session, bytes, (size_t)n, now);
            if ((size_t)n < sizeof(bytes))
                return;
        } else if (n == 0) {
            take_end(session, now);
        } else if (errno != EINTR) {
            if (errno != EAGAIN)
                lose(session, status_of_errno(errno));
            return;
        }
    }
}

static void on_ready(struct loop_source *source, uint32_t events)
{
    struct session *session = CONTAINER_OF(source, struct session, source);
    if (session->state == SESSION_CONNECTING) {
        int code = connect_result(source->fd);
        if (code) {
            fail(session, code);
            return;
        }
        session->state = SESSION_OPEN;
        send_some(session);
        return;
    }
    if (events & EPOLLOUT)
        send_some(session);
    if (session->state == SESSION_OPEN && events & (EPOLLIN | EPOLLHUP | EPOLLERR))
        receive(session);
}

static int begin_connection(struct session *session)
{
    const struct options *options = &session->probe->options;
    int one = 1;
    int fd = socket(options->address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    int rc = setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) < 0 ? -errno : 0;
    if (!rc)
        rc = connect_begin(fd, options);
    if (!rc)
        rc = loop_add(&session->probe->loop, &session->source, fd, EPOLLOUT, on_ready);
    if (rc) {
        (void)close(fd);
        return rc;
    }
    session->state = SESSION_CONNECTING;
    return 0;
}

/* Gives a request to a connection, which is opened first where it must be. */
static void place(struct session *session, struct request *request)
{
    struct sessions *all = session->probe->state;
    session->busy = true;
    session->seq = request->seq;
    session->sent = 0;
    request->connection = session->index;
    buf_reset(&session->out);
    all->ops->ask(session, request);
    int rc = buf_status(&session->out);
    if (!rc && session->state == SESSION_SHUT)
        rc = begin_connection(session);
    if (rc)
        fail(session, -rc);
    else if (session->state == SESSION_OPEN)
        send_some(session);
}

static struct session *find_free(struct sessions *all)
{
    for (uint32_t i = 0; i < all->count; i++) {
        struct session *session = &all->session[(all->turn + i) % all->count];
        if (!session->busy) {
            all->turn = session->index + 1;
            return session;
        }
    }
    return NULL;
}

static bool too_late(const struct probe *probe, const struct request *request)
{
    return request->deadline_ns - MIN(clock_now_ns(), request->deadline_ns) <
           probe->options.timeout_ns / 2;
}

static void place_waiting(struct probe *probe)
{
    struct sessions *all = probe->state;
    if (all->placing)
        return; /* one that fails at once comes here again */
    all->placing = true;
    all->waiting = MAX(all->waiting, probe->requests.first);
    for (; all->waiting < probe->requests.next; all->waiting++) {
        struct request *request = requests_find(&probe->requests, all->waiting);
        struct session *session = request ? find_free(all) : NULL;
        if (request && !session)
            break;
        if (request && too_late(probe, request))
            requests_end(&probe->requests, request, STATUS_TIMEOUT, clock_now_ns());
        else if (request)
            place(session, request);
    }
    all->placing = false;
}

static void session_fire(struct probe *probe, uint64_t due_ns, uint64_t now_ns)
{
    struct sessions *all = probe->state;
    struct request *request =
        requests_add(&probe->requests, due_ns, now_ns + probe->options.timeout_ns, "");
    all->ops->plan(probe, request);
    place_waiting(probe);
}

static void session_abandon(struct probe *probe, const struct request *request)
{
    struct sessions *all = probe->state;
    if (request->connection == ROW_NO_CONNECTION)
        return;
    struct session *session = &all->session[request->connection];
    if (!session->busy || session->seq != request->seq)
        return;
    shut(session);
    session->busy = false;
    place_waiting(probe);
}

/* Connections are opened before the first request is due; those that fail are tried again when they are needed. */
static int session_open(struct probe *probe, struct err *err)
{
    uint32_t count = (uint32_t)probe->options.connections;
    struct sessions *all = calloc(1, sizeof(*all) + count * sizeof(all->session[0]));
    if (!all)
        return err_errno(err, ERR_HOST, ENOMEM, "%u connections", count);
    all->ops = probe->options.kind == PROBE_HTTP   ? &ask_http
               : probe->options.kind == PROBE_RESP ? &ask_resp
                                                   : &ask_echo;
    all->count = count;
    probe->state = all;
    for (uint32_t i = 0; i < count; i++) {
        all->session[i] = (struct session){ .probe = probe, .index = i, .source.fd = -1 };
        (void)!begin_connection(&all->session[i]);
    }
    return 0;
}

static void session_close(struct probe *probe, uint64_t now_ns)
{
    (void)now_ns;
    struct sessions *all = probe->state;
    for (uint32_t i = 0; all && i < all->count; i++) {
        shut(&all->session[i]);
        buf_free(&all->session[i].out);
    }
    free(all);
    probe->state = NULL;
}

const struct kind_ops session_kind = {
    .open = session_open, .fire = session_fire, .abandon = session_abandon, .close = session_close
};
