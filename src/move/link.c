#include "move/link.h"
#include "base/clock.h"
#include "base/fd.h"

#include <errno.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

int link_split_address(const char *address, char *host, size_t host_size, char *port,
                       size_t port_size, struct err *err)
{
    const char *colon = strrchr(address, ':');
    if (!colon || colon == address || !colon[1] || strlen(colon + 1) >= port_size)
        return err_set(err, ERR_CALLER, EINVAL, "%s: not an address; want HOST:PORT or [IPV6]:PORT",
                       address);
    const char *first = address;
    size_t len = (size_t)(colon - address);
    if (first[0] == '[' && first[len - 1] == ']') {
        first++;
        len -= 2;
    } else if (memchr(first, ':', len)) {
        return err_set(err, ERR_CALLER, EINVAL,
                       "%s: an IPv6 address needs brackets: [ADDRESS]:PORT", address);
    }
    if (len == 0 || len >= host_size)
        return err_set(err, ERR_CALLER, EINVAL, "%s: not an address; want HOST:PORT or [IPV6]:PORT",
                       address);
    memcpy(host, first, len);
    host[len] = '\0';
    (void)snprintf(port, port_size, "%s", colon + 1);
    return 0;
}

int link_await(struct link *link, short events, int timeout_ms)
{
    struct pollfd fds[2] = { { .fd = link->fd, .events = events },
                             { .fd = link->cancel_fd, .events = POLLIN } };
    for (;;) {
        int n = poll(fds, 2, timeout_ms);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (fds[1].revents)
            return -ECANCELED;
        return n == 0 ? -ETIMEDOUT : 0;
    }
}

int link_stall_ms(const struct link *link)
{
    uint64_t ms = link->stall_limit_ns == 0 ? UINT64_MAX : link->stall_limit_ns / CLOCK_MSEC;
    if (link->until_ns) {
        uint64_t now = clock_now_ns();
        ms = MIN(ms, now < link->until_ns ? (link->until_ns - now) / CLOCK_MSEC + 1 : 0);
    }
    return ms > INT32_MAX ? -1 : (int)ms;
}

int link_explain(struct link *link, int rc, const char *doing, struct err *err)
{
    if (rc == -EKEYREJECTED || rc == -EPROTO)
        return rc; /* trust/tls.h has explained it */
    if (rc == -ECANCELED)
        return err_set(err, ERR_CALLER, ECANCELED, "cancelled");
    if (rc == -ETIMEDOUT)
        return err_set(err, ERR_PEER, ETIMEDOUT, "no progress for %llu ms while %s",
                       (unsigned long long)(link->stall_limit_ns / CLOCK_MSEC), doing);
    if (rc == -ENODATA && link->file)
        return err_set(err, ERR_PEER, EBADMSG,
                       "the file ends too early: it is torn or not complete");
    if (rc == -ENODATA)
        return err_set(err, ERR_PEER, ECONNRESET, "the other side closed the connection");
    if (link->file)
        return err_errno(err, ERR_HOST, -rc, "file error while %s", doing);
    return err_errno(err, ERR_PEER, -rc, "connection lost while %s", doing);
}

static int connect_one(struct link *link, const struct addrinfo *ai)
{
    CLEANUP_FD int fd =
        socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, ai->ai_protocol);
    if (fd < 0)
        return -errno;
    if (connect(fd, ai->ai_addr, ai->ai_addrlen) < 0 && errno != EINPROGRESS)
        return -errno;
    link->fd = fd;
    int rc = link_await(link, POLLOUT, link_stall_ms(link));
    int failed = 0;
    socklen_t len = sizeof(failed);
    if (!rc && getsockopt(fd, SOL_SOCKET, SO_ERROR, &failed, &len) < 0)
        rc = -errno;
    if (!rc)
        rc = -failed;
    link->fd = -1;
    return rc ? rc : TAKE_FD(fd);
}

int link_adopt(struct link *link, int fd, struct err *err)
{
    int one = 1;
    int rc = fd_set_nonblock(fd);
    if (rc) {
        (void)close(fd);
        return err_errno(err, ERR_HOST, -rc, "cannot set up the connection");
    }
    /* Messages are answered at once, and bulk is sent in large pieces: nothing to be gained by waiting. */
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    link->fd = fd;
    link->file = link->mid_section = false;
    return 0;
}

void link_adopt_file(struct link *link, int fd)
{
    link->fd = fd;
    link->file = true;
    link->mid_section = false;
}

int link_connect(struct link *link, const char *address, struct err *err)
{
    char host[NI_MAXHOST], port[8];
    int rc = link_split_address(address, host, sizeof(host), port, sizeof(port), err);
    if (rc)
        return rc;
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV },
                    *list = NULL;
    int gai = getaddrinfo(host, port, &hints, &list);
    if (gai)
        return err_set(err, ERR_CALLER, EINVAL, "%s: %s", address, gai_strerror(gai));
    rc = -EADDRNOTAVAIL;
    int fd = -1;
    for (const struct addrinfo *ai = list; ai && fd < 0 && rc != -ECANCELED; ai = ai->ai_next) {
        fd = connect_one(link, ai);
        rc = fd < 0 ? fd : 0;
    }
    freeaddrinfo(list);
    if (rc == -ECANCELED || rc == -ETIMEDOUT)
        return err_wrap(err, link_explain(link, rc, "connecting", err), "%s", address);
    if (rc)
        return err_errno(err, ERR_PEER, -rc, "cannot connect to %s", address);
    return link_adopt(link, fd, err);
}

void link_close(struct link *link)
{
    tls_free(link->tls);
    link->tls = NULL;
    fd_close(&link->fd);
}

/* --------------------------------------------------------------------------------- whole sends and receives */

/* Drops the first `n` bytes of what is left to move; returns how many pieces remain. */
static int advance(struct iovec **iov, int count, size_t n)
{
    while (count > 0 && n >= (*iov)->iov_len) {
        n -= (*iov)->iov_len;
        (*iov)++;
        count--;
    }
    if (n > 0) {
        (*iov)->iov_base = (uint8_t *)(*iov)->iov_base + n;
        (*iov)->iov_len -= n;
    }
    return count;
}

/* What begins with a small piece is gathered into one record: each costs a header, a sum, and setting up the
 * cipher. The copy is as short as a record. */
static ssize_t send_record(struct link *link, const struct iovec *iov, int count, short *events,
                           struct err *err)
{
    uint8_t record[TLS_RECORD_BYTES];
    size_t len = 0;
    if (count == 1 || iov->iov_len >= sizeof(record))
        return tls_write(link->tls, iov->iov_base, iov->iov_len, events, err);
    for (int i = 0; i < count && len < sizeof(record); i++) {
        size_t part = MIN(iov[i].iov_len, sizeof(record) - len);
        if (part > 0)
            memcpy(record + len, iov[i].iov_base, part);
        len += part;
    }
    return tls_write(link->tls, record, len, events, err);
}

/* Some of it, as the socket takes it: > 0, or -errno; -EAGAIN: wait for *events. */
static ssize_t send_some(struct link *link, const struct iovec *iov, int count, short *events,
                         struct err *err)
{
    if (link->tls)
        return send_record(link, iov, count, events, err);
    ssize_t n = writev(link->fd, iov, MIN(count, IOV_MAX));
    *events = POLLOUT;
    return n < 0 ? -errno : n;
}

static ssize_t receive_some(struct link *link, const struct iovec *iov, int count, short *events,
                            struct err *err)
{
    if (link->tls)
        return tls_read(link->tls, iov->iov_base, iov->iov_len, events, err);
    ssize_t n = readv(link->fd, iov, MIN(count, IOV_MAX));
    *events = POLLIN;
    return n < 0 ? -errno : n == 0 ? -ENODATA : n;
}

/* What kept encrypted records back lets them go. */
static int flush(struct link *link, struct err *err)
{
    short events;
    for (;;) {
        int rc = link->tls ? tls_flush(link->tls, &events, err) : 0;
        if (rc == -EAGAIN)
            rc = link_await(link, events, link_stall_ms(link));
        else if (!rc)
            return 0;
        if (rc)
            return link_explain(link, rc, "sending", err);
    }
}

int link_sendv(struct link *link, struct iovec *iov, int count, struct err *err)
{
    link->mid_section = true;
    for (count = advance(&iov, count, 0); count > 0;) {
        short events;
        ssize_t n = send_some(link, iov, count, &events, err);
        int rc = n < 0 ? (int)n : 0;
        if (rc == -EAGAIN)
            rc = link_await(link, events, link_stall_ms(link));
        if (rc && rc != -EINTR)
            return link_explain(link, rc, "sending", err);
        if (n > 0) {
            link->sent_bytes += (uint64_t)n;
            count = advance(&iov, count, (size_t)n);
        }
    }
    int rc = flush(link, err);
    link->mid_section = rc != 0;
    return rc;
}

int link_send(struct link *link, const void *bytes, size_t len, struct err *err)
{
    struct iovec iov = { .iov_len = len };
    memcpy(&iov.iov_base, &bytes, sizeof(bytes)); /* struct iovec has no const */
    return link_sendv(link, &iov, 1, err);
}

int link_send_some(struct link *link, const void *bytes, size_t len, size_t *ret_sent,
                   struct err *err)
{
    struct iovec iov = { .iov_len = len };
    short events;
    memcpy(&iov.iov_base, &bytes, sizeof(bytes));
    ssize_t n = send_some(link, &iov, 1, &events, err);
    if (n < 0 && n != -EAGAIN && n != -EINTR)
        return link_explain(link, (int)n, "sending", err);
    *ret_sent = n > 0 ? (size_t)n : 0;
    link->sent_bytes += *ret_sent;
    link->mid_section = true;
    int rc = *ret_sent == len ? flush(link, err) : 0;
    link->mid_section = rc || *ret_sent < len;
    return rc;
}

int link_recvv(struct link *link, struct iovec *iov, int count, struct err *err)
{
    for (count = advance(&iov, count, 0); count > 0;) {
        short events;
        ssize_t n = receive_some(link, iov, count, &events, err);
        int rc = n < 0 ? (int)n : 0;
        if (rc == -EAGAIN)
            rc = link_await(link, events, link_stall_ms(link));
        if (rc && rc != -EINTR)
            return link_explain(link, rc, "receiving", err);
        if (n > 0) {
            link->received_bytes += (uint64_t)n;
            count = advance(&iov, count, (size_t)n);
        }
    }
    return 0;
}

int link_recv(struct link *link, void *bytes, size_t len, struct err *err)
{
    struct iovec iov = { .iov_base = bytes, .iov_len = len };
    return len ? link_recvv(link, &iov, 1, err) : 0;
}

/* Twice what a link of 10 Gbit/s holds; below that, buffers for what one wake-up of the reader takes. */
void link_keep_short(struct link *link)
{
    struct tcp_info info = { 0 };
    socklen_t len = sizeof(info);
    int bytes = 128 << 10; /* the kernel doubles it */
    if (getsockopt(link->fd, IPPROTO_TCP, TCP_INFO, &info, &len) == 0)
        bytes = (int)MIN(MAX((uint64_t)info.tcpi_rtt * 1250, (uint64_t)bytes), UINT64_C(16) << 20);
    (void)setsockopt(link->fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
    (void)setsockopt(link->fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes));
}

int link_wait(struct link *link, int timeout_ms)
{
    int rc = link_await(link, POLLIN, link_pending(link) ? 0 : timeout_ms);
    return rc == -ETIMEDOUT && link_pending(link) ? 0 : rc;
}

int link_recv_head(struct link *link, struct section *ret, struct err *err)
{
    uint8_t head[STREAM_SECTION_BYTES];
    int rc = link_recv(link, head, sizeof(head), err);
    return rc ? rc : section_decode(head, ret, err);
}

int link_recv_body(struct link *link, const struct section *section, void *body, struct err *err)
{
    int rc = link_recv(link, body, section->length, err);
    return rc ? rc : section_check_body(section, body, err);
}

void link_linger(struct link *link, uint64_t limit_ns)
{
    char drop[16384];
    uint64_t until = clock_now_ns() + limit_ns;
    tls_free(link->tls); /* with its farewell */
    link->tls = NULL;
    (void)shutdown(link->fd, SHUT_WR);
    for (uint64_t now = clock_now_ns(); now < until; now = clock_now_ns()) {
        if (link_await(link, POLLIN, (int)((until - now) / CLOCK_MSEC) + 1))
            return;
        ssize_t n = read(link->fd, drop, sizeof(drop));
        if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
            return;
    }
}
