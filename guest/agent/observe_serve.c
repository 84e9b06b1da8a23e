/*
 * Serves what `observe` keeps. A client sends one line, is answered, and reads the end of file. There is room for CLIENTS at
 * a time, each with a buffer of fixed size; whoever has been there longest makes room for a new one, and each is there
 * for LIMIT_MS at most.
 */
#include "observe.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define CLIENTS 16
#define LIMIT_MS 30000
#define LINE 16

struct client {
    int fd; /* -1 = nobody */
    uint64_t since_ms;
    char line[LINE];
    size_t line_len;
    struct observe_ring *ring; /* NULL: not asked for, or `now` */
    uint64_t row, end;         /* what is still to be sent of it */
    char out[4096];
    size_t from, len;
    bool answered; /* there is nothing more to put into `out` than rows */
};

static void leave(struct client *client)
{
    if (client->fd >= 0)
        close(client->fd);
    client->fd = -1;
}

static void enter(struct client *all, int fd)
{
    struct client *client = &all[0];
    for (unsigned i = 1; i < CLIENTS && client->fd >= 0; i++)
        if (all[i].fd < 0 || all[i].since_ms < client->since_ms)
            client = &all[i];
    leave(client);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    client->fd = fd;
    client->since_ms = guest_now_ms();
    client->line_len = client->from = client->len = 0;
    client->ring = NULL;
    client->answered = false;
}

/* Begins the answer to a line. False: there is no such request. */
static bool begin(struct observe *observe, struct client *client)
{
    int len;
    if (strcmp(client->line, "now") == 0) {
        len = snprintf(client->out, sizeof(client->out), "%llu\n",
                       (unsigned long long)observe_now_ns());
    } else if (strcmp(client->line, "clock") == 0) {
        client->ring = &observe->clock;
        len = snprintf(client->out, sizeof(client->out), "# period_ns=%llu\nat_ns,gap_ns\n",
                       (unsigned long long)observe->period_ns);
    } else if (strcmp(client->line, "work") == 0) {
        client->ring = &observe->work;
        len = snprintf(client->out, sizeof(client->out), "at_ns,units,busy_ns\n");
    } else {
        return false;
    }
    client->len = (size_t)len;
    client->answered = true;
    if (client->ring) {
        client->end = observe_ring_count(client->ring);
        client->row = client->end > OBSERVE_ROWS ? client->end - OBSERVE_ROWS : 0;
    }
    return true;
}

/* Puts rows into `out` while there is room; those that were overwritten meanwhile are missing at the beginning. */
static void put_rows(struct observe *observe, struct client *client)
{
    uint64_t row[OBSERVE_COLUMNS];
    while (client->ring && client->row < client->end &&
           client->len + 3 * 21 < sizeof(client->out)) {
        if (!observe_ring_get(client->ring, client->row++, row))
            continue;
        char *to = client->out + client->len;
        size_t room = sizeof(client->out) - client->len;
        if (client->ring == &observe->clock)
            client->len += (size_t)snprintf(to, room, "%llu,%llu\n", (unsigned long long)row[0],
                                            (unsigned long long)row[1]);
        else
            client->len +=
                (size_t)snprintf(to, room, "%llu,%llu,%llu\n", (unsigned long long)row[0],
                                 (unsigned long long)row[1], (unsigned long long)row[2]);
    }
}

/* False: it is over, one way or the other. */
static bool hear(struct observe *observe, struct client *client)
{
    ssize_t n = recv(client->fd, client->line + client->line_len, LINE - client->line_len, 0);
    if (n <= 0)
        return n < 0 && errno == EAGAIN;
    client->line_len += (size_t)n;
    char *end = memchr(client->line, '\n', client->line_len);
    if (!end)
        return client->line_len < LINE;
    *end = '\0';
    return begin(observe, client);
}

/* False: all is sent, or cannot be. */
static bool tell(struct observe *observe, struct client *client)
{
    if (client->from == client->len)
        client->from = client->len = 0;
    if (!client->len)
        put_rows(observe, client);
    if (!client->len)
        return false;
    ssize_t n =
        send(client->fd, client->out + client->from, client->len - client->from, MSG_NOSIGNAL);
    if (n > 0)
        client->from += (size_t)n;
    return n > 0 || errno == EAGAIN;
}

static void turn(struct observe *observe, struct client *client)
{
    bool stays = client->answered || hear(observe, client);
    if (stays && client->answered)
        stays = tell(observe, client);
    if (!stays)
        leave(client);
}

void observe_serve(struct observe *observe, int tcp_fd, int vsock_fd, int stop_fd)
{
    static struct client clients[CLIENTS];
    for (unsigned i = 0; i < CLIENTS; i++)
        clients[i].fd = -1;
    for (;;) {
        struct pollfd fds[CLIENTS + 3] = { { .fd = stop_fd, .events = POLLIN },
                                           { .fd = tcp_fd, .events = POLLIN },
                                           { .fd = vsock_fd, .events = POLLIN } };
        bool anyone = false;
        for (unsigned i = 0; i < CLIENTS; i++) {
            fds[3 + i] = (struct pollfd){ .fd = clients[i].fd,
                                          .events = clients[i].answered ? POLLOUT : POLLIN };
            anyone |= clients[i].fd >= 0;
        }
        if (poll(fds, CLIENTS + 3, anyone ? 1000 : -1) < 0)
            continue;
        if (fds[0].revents)
            break;
        for (unsigned i = 0; i < CLIENTS; i++)
            if (clients[i].fd >= 0 && fds[3 + i].revents)
                turn(observe, &clients[i]);
            else if (clients[i].fd >= 0 && guest_now_ms() - clients[i].since_ms > LIMIT_MS)
                leave(&clients[i]);
        int fd = fds[1].revents ? accept4(tcp_fd, NULL, NULL, SOCK_CLOEXEC) : -1;
        if (fd >= 0)
            enter(clients, fd);
        fd = fds[2].revents ? guest_vsock_accept(vsock_fd) : -1;
        if (fd >= 0)
            enter(clients, fd);
    }
    for (unsigned i = 0; i < CLIENTS; i++)
        leave(&clients[i]);
}

static int listen_tcp(unsigned port)
{
    struct sockaddr_in6 any = { .sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port) };
    int on = 1, fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0 &&
        (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
         bind(fd, (struct sockaddr *)(void *)&any, sizeof(any)) < 0 || listen(fd, CLIENTS) < 0)) {
        close(fd);
        fd = -1;
    }
    if (fd < 0)
        fprintf(stderr, "godwit-agent: observe: TCP port %u: %s\n", port, strerror(errno));
    return fd;
}

static int listen_vsock(unsigned port)
{
    int fd = guest_vsock_listen(port);
    if (fd < 0)
        fprintf(stderr, "godwit-agent: observe: vsock port %u: %s\n", port, strerror(errno));
    else
        fcntl(fd, F_SETFL, O_NONBLOCK);
    return fd;
}

int observe_run(const struct guest_config *config)
{
    static struct observe observe;
    if (!config->observe_tcp && !config->observe_vsock) {
        fprintf(stderr, "godwit-agent: the configuration does not allow to observe this guest\n");
        return 2;
    }
    int tcp_fd = config->observe_tcp ? listen_tcp(config->observe_tcp) : -1;
    int vsock_fd = config->observe_vsock ? listen_vsock(config->observe_vsock) : -1;
    if ((tcp_fd < 0 && vsock_fd < 0) || !observe_start(&observe, config->observe_period_ms))
        return 1;
    observe_serve(&observe, tcp_fd, vsock_fd, -1);
    return 1;
}
