/*
 * TCP and UDP echo on one port. A connection whose peer does not read is not read from either, so it holds one buffer at
 * most; one more than CONNECTIONS replaces the one that has been silent longest.
 */
#include "load.h"

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define CONNECTIONS 64
#define BUFFER 4096

struct connection {
    int fd;
    uint64_t heard_ns;
    size_t from, len; /* what is not sent back yet */
    char data[BUFFER];
};

static int open_socket(int type, uint16_t port)
{
    struct sockaddr_in6 address = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
    int on = 1, fd = socket(AF_INET6, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0 && (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
                    bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0)) {
        close(fd);
        fd = -1;
    }
    return fd;
}

static void echo_datagrams(int fd)
{
    char data[2048];
    struct sockaddr_in6 peer;
    socklen_t len = sizeof(peer);
    for (unsigned i = 0; i < 64; i++, len = sizeof(peer)) { /* others want a turn, too */
        ssize_t n = recvfrom(fd, data, sizeof(data), MSG_TRUNC, (struct sockaddr *)&peer, &len);
        if (n < 0)
            return;
        /* Two echo servers would keep a packet going for ever; a cut packet is no echo. */
        if ((size_t)n <= sizeof(data) && ntohs(peer.sin6_port) >= 1024)
            (void)sendto(fd, data, (size_t)n, 0, (struct sockaddr *)&peer, len);
    }
}

/* False: the connection is over. */
static int echo_stream(struct connection *c)
{
    ssize_t n;
    if (!c->len) {
        n = recv(c->fd, c->data, sizeof(c->data), 0);
        if (n <= 0)
            return n < 0 && errno == EAGAIN;
        c->len = (size_t)n;
        c->from = 0;
        c->heard_ns = load_now_ns();
    }
    n = send(c->fd, c->data + c->from, c->len, MSG_NOSIGNAL);
    if (n < 0)
        return errno == EAGAIN;
    c->from += (size_t)n;
    c->len -= (size_t)n;
    return 1;
}

static void accept_one(int listen_fd, struct connection *all)
{
    struct connection *c = &all[0];
    int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return;
    for (unsigned i = 0; i < CONNECTIONS; i++)
        if (all[i].fd < 0 || (c->fd >= 0 && all[i].heard_ns < c->heard_ns))
            c = &all[i];
    if (c->fd >= 0)
        close(c->fd);
    c->fd = fd;
    c->len = 0;
    c->heard_ns = load_now_ns();
}

int load_echo(const uint64_t *value)
{
    static struct connection connection[CONNECTIONS];
    int stream = open_socket(SOCK_STREAM, (uint16_t)value[0]),
        datagram = open_socket(SOCK_DGRAM, (uint16_t)value[0]);
    if (stream < 0 || datagram < 0 || listen(stream, 64) < 0) {
        fprintf(stderr, "godwit-load: echo: port %u: %s\n", (unsigned)value[0], strerror(errno));
        return -1;
    }
    for (unsigned i = 0; i < CONNECTIONS; i++)
        connection[i].fd = -1;
    load_ready();
    for (;;) {
        struct pollfd fds[CONNECTIONS + 2] = { { .fd = stream, .events = POLLIN },
                                               { .fd = datagram, .events = POLLIN } };
        for (unsigned i = 0; i < CONNECTIONS; i++)
            fds[2 + i] = (struct pollfd){ .fd = connection[i].fd,
                                          .events = connection[i].len ? POLLOUT : POLLIN };
        if (poll(fds, CONNECTIONS + 2, -1) < 0)
            continue;
        for (unsigned i = 0; i < CONNECTIONS; i++)
            if (fds[2 + i].revents && !echo_stream(&connection[i])) {
                close(connection[i].fd);
                connection[i].fd = -1;
                connection[i].len = 0;
            }
        if (fds[1].revents)
            echo_datagrams(datagram);
        if (fds[0].revents)
            accept_one(stream, connection);
    }
}
