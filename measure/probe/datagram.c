/*
 * udp, icmp: a question is one datagram, its answer the same bytes.
 *
 * What a datagram carries says which request it belongs to, so many can be under way on one socket. ICMP errors are
 * asked for with the datagram they quote (IP_RECVERR), so that a refusal belongs to the request that met it. Echoes
 * that come twice, too late or from another probe are strays.
 */
#include "probe.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/errqueue.h>
#include <linux/icmp.h>
#include <linux/icmpv6.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define ECHO_HEAD sizeof(struct icmphdr)
static_assert(sizeof(struct icmphdr) == 8, "an echo's head, of ICMPv6 too");

struct dgram {
    struct loop_source source; /* source.fd is owned */
    struct probe *probe;
};

struct dgrams {
    uint32_t count;
    bool v6, raw; /* of icmp: raw sockets show everybody's echoes, and, with IPv4, the IP header */
    uint16_t ident; /* of our echoes on a raw socket */
    struct dgram dgram[];
};

/* The part of a datagram that echo_fill() made, or NULL: it is no echo of ours. */
static const uint8_t *payload_of(const struct probe *probe, const uint8_t *bytes, size_t len,
                                 bool answer, size_t *ret_len)
{
    const struct dgrams *all = probe->state;
    if (probe->options.kind == PROBE_ICMP) {
        uint8_t wanted = all->v6 ? (answer ? ICMPV6_ECHO_REPLY : ICMPV6_ECHO_REQUEST)
                                 : (answer ? ICMP_ECHOREPLY : ICMP_ECHO);
        if (answer && all->raw && !all->v6) {
            size_t head = len ? (bytes[0] & 15U) * 4 : 0;
            if (len < head)
                return NULL;
            bytes += head;
            len -= head;
        }
        if (len < ECHO_HEAD || bytes[0] != wanted)
            return NULL;
        bytes += ECHO_HEAD;
        len -= ECHO_HEAD;
    }
    if (len < 16 || memcmp(bytes, &probe->cookie, 8) != 0)
        return NULL;
    *ret_len = len;
    return bytes;
}

static struct request *request_of(struct probe *probe, const uint8_t *payload)
{
    uint64_t seq;
    memcpy(&seq, payload + 8, 8);
    return requests_find(&probe->requests, seq);
}

static void take(struct probe *probe, const uint8_t *bytes, size_t len, uint64_t now)
{
    static uint8_t want[65536];
    size_t payload_len = 0, size = probe->options.size_bytes;
    const uint8_t *payload = payload_of(probe, bytes, len, true, &payload_len);
    struct request *request = payload ? request_of(probe, payload) : NULL;
    if (!request) {
        probe->strays +=
            payload || probe->options.kind != PROBE_ICMP; /* other programs' echoes are none */
        return;
    }
    echo_fill(want, size, probe->cookie, request->seq);
    bool right = payload_len == size && memcmp(payload, want, size) == 0;
    if (right)
        probe_heard(probe, now);
    request->bytes = payload_len;
    requests_end(&probe->requests, request, right ? STATUS_OK : STATUS_BAD, now);
}

/* What ICMP, or our own network, said about datagrams that we sent. */
static void take_errors(struct dgram *dgram)
{
    for (unsigned i = 0; i < 64; i++) {
        uint8_t bytes[2048];
        union {
            struct cmsghdr head;
            char room[512];
        } control;
        struct iovec iov = { .iov_base = bytes, .iov_len = sizeof(bytes) };
        struct msghdr msg = { .msg_iov = &iov,
                              .msg_iovlen = 1,
                              .msg_control = &control,
                              .msg_controllen = sizeof(control) };
        ssize_t n = recvmsg(dgram->source.fd, &msg, MSG_ERRQUEUE);
        if (n < 0)
            return;
        size_t payload_len;
        const uint8_t *payload = payload_of(dgram->probe, bytes, (size_t)n, false, &payload_len);
        struct request *request = payload ? request_of(dgram->probe, payload) : NULL;
        for (struct cmsghdr *head = CMSG_FIRSTHDR(&msg); head; head = CMSG_NXTHDR(&msg, head)) {
            if ((head->cmsg_level != IPPROTO_IP || head->cmsg_type != IP_RECVERR) &&
                (head->cmsg_level != IPPROTO_IPV6 || head->cmsg_type != IPV6_RECVERR))
                continue;
            struct sock_extended_err said;
            memcpy(&said, CMSG_DATA(head), sizeof(said));
            if (!request)
                dgram->probe->strays++;
            else
                probe_trouble(dgram->probe, request, (int)said.ee_errno, clock_now_ns());
            break;
        }
    }
}

static void on_ready(struct loop_source *source, uint32_t events)
{
    static uint8_t bytes[65536];
    struct dgram *dgram = CONTAINER_OF(source, struct dgram, source);
    if (events & EPOLLERR)
        take_errors(dgram);
    /* Not for ever: the others, and the next due time, wait. */
    for (unsigned i = 0; i < 64; i++) {
        ssize_t n = recv(source->fd, bytes, sizeof(bytes), 0);
        uint64_t now = clock_now_ns();
        if (n >= 0)
            take(dgram->probe, bytes, (size_t)n, now);
        else if (errno == EAGAIN)
            return;
        /* other errors belong to datagrams sent before: the error queue has said so, or will */
    }
}

static void datagram_fire(struct probe *probe, uint64_t due_ns, uint64_t now_ns)
{
    static uint8_t bytes[65536];
    struct dgrams *all = probe->state;
    bool icmp = probe->options.kind == PROBE_ICMP;
    size_t head = icmp ? ECHO_HEAD : 0, len = probe->options.size_bytes;
    struct request *request =
        requests_add(&probe->requests, due_ns, now_ns + probe->options.timeout_ns,
                     probe_kind_name(probe->options.kind));
    uint64_t seq = request->seq;
    struct dgram *dgram = &all->dgram[seq % all->count];
    request->connection = (uint32_t)(seq % all->count);
    echo_fill(bytes + head, len, probe->cookie, seq);
    if (icmp) {
        struct icmphdr echo = { .type = all->v6 ? ICMPV6_ECHO_REQUEST : ICMP_ECHO };
        echo.un.echo.id = htons(all->ident);
        echo.un.echo.sequence = htons((uint16_t)seq);
        uint32_t sum = 0;
        memcpy(bytes, &echo, sizeof(echo));
        for (size_t i = 0; i < head + len; i++) /* of IPv4; the kernel makes that of ICMPv6 */
            sum += i % 2 ? bytes[i] : (uint32_t)bytes[i] << 8;
        sum = (sum & 0xffff) + (sum >> 16);
        sum += sum >> 16;
        echo.checksum = htons((uint16_t)~sum);
        memcpy(bytes, &echo, sizeof(echo));
    }
    /* The first call may report what befell an earlier datagram. */
    for (int tries = 0; tries < 2; tries++) {
        request->sent_ns = clock_now_ns();
        if (send(dgram->source.fd, bytes, head + len, MSG_NOSIGNAL) >= 0)
            return;
        int code = errno;
        if (tries == 0 && (code == ECONNREFUSED || code == EHOSTUNREACH || code == ENETUNREACH)) {
            take_errors(dgram);
            request = requests_find(&probe->requests, seq);
            if (!request)
                return;
            continue;
        }
        request->sent_ns = 0;
        probe_trouble(probe, request, code, clock_now_ns());
        return;
    }
}

/* Sockets that need no privilege where the kernel allows them, raw ones elsewhere. */
static int icmp_socket(struct dgrams *all, sa_family_t family)
{
    int protocol = family == AF_INET6 ? (int)IPPROTO_ICMPV6 : (int)IPPROTO_ICMP;
    int fd = socket(family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, protocol);
    if (fd >= 0 || (errno != EACCES && errno != EPERM && errno != EPROTONOSUPPORT))
        return fd;
    all->raw = true;
    return socket(family, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, protocol);
}

/* A raw socket is shown answers only; whose, payload_of() finds out. */
static int filter_answers(const struct dgrams *all, int fd)
{
    if (!all->raw)
        return 0;
    if (all->v6) {
        struct icmp6_filter filter;
        memset(&filter, 0xff, sizeof(filter)); /* set bits are kept away */
        filter.data[ICMPV6_ECHO_REPLY >> 5] &= ~(1U << (ICMPV6_ECHO_REPLY & 31));
        return setsockopt(fd, IPPROTO_ICMPV6, ICMPV6_FILTER, &filter, sizeof(filter));
    }
    struct icmp_filter filter = { .data = ~(1U << ICMP_ECHOREPLY) };
    return setsockopt(fd, SOL_RAW, ICMP_FILTER, &filter, sizeof(filter));
}

static int open_one(struct probe *probe, struct dgram *dgram, struct err *err)
{
    const struct options *options = &probe->options;
    struct dgrams *all = probe->state;
    int one = 1, room = 4 << 20;
    bool icmp = options->kind == PROBE_ICMP;
    int fd = icmp
                 ? icmp_socket(all, options->address.ss_family)
                 : socket(options->address.ss_family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return err_errno(err, ERR_HOST, errno, icmp ? "no socket for ICMP" : "no socket");
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof(room)); /* as much as is allowed */
    int failed = setsockopt(fd, all->v6 ? IPPROTO_IPV6 : IPPROTO_IP,
                            all->v6 ? IPV6_RECVERR : IP_RECVERR, &one, sizeof(one));
    if (!failed && icmp)
        failed = filter_answers(all, fd);
    if (!failed)
        failed = connect(fd, (const struct sockaddr *)&options->address, options->address_len);
    int rc = failed ? -errno : loop_add(&probe->loop, &dgram->source, fd, EPOLLIN, on_ready);
    if (rc) {
        (void)close(fd);
        return err_errno(err, ERR_HOST, -rc, "%s", options->target);
    }
    return 0;
}

static int datagram_open(struct probe *probe, struct err *err)
{
    uint32_t count = (uint32_t)probe->options.connections;
    struct dgrams *all = calloc(1, sizeof(*all) + count * sizeof(all->dgram[0]));
    if (!all)
        return err_errno(err, ERR_HOST, ENOMEM, "%u sockets", count);
    probe->state = all;
    all->count = count;
    all->v6 = probe->options.address.ss_family == AF_INET6;
    all->ident = (uint16_t)probe->cookie;
    for (uint32_t i = 0; i < count; i++)
        all->dgram[i] = (struct dgram){ .probe = probe, .source.fd = -1 };
    for (uint32_t i = 0; i < count; i++) {
        int rc = open_one(probe, &all->dgram[i], err);
        if (rc)
            return rc;
    }
    return 0;
}

static void datagram_close(struct probe *probe, uint64_t now_ns)
{
    (void)now_ns;
    struct dgrams *all = probe->state;
    for (uint32_t i = 0; all && i < all->count; i++) {
        int fd = all->dgram[i].source.fd;
        loop_remove(&all->dgram[i].source);
        if (fd >= 0)
            (void)close(fd);
    }
    free(all);
    probe->state = NULL;
}

const struct kind_ops datagram_kind = { .open = datagram_open,
                                        .fire = datagram_fire,
                                        .close = datagram_close };
