/*
 * arrivals: players of a tick server. To it any datagram is a sign of life from a player: each says `join` at the
 * beginning and every second after, and small inputs go out at the rate asked for, from one player after the other. A
 * packet that comes begins with its number and the server's clock in ns, 8 bytes each, little-endian; every one is a
 * row.
 */
#include "base/cursor.h"
#include "probe.h"

#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#define JOIN_NS CLOCK_SECOND

struct player {
    struct loop_source source; /* source.fd is owned */
    struct probe *probe;
    uint32_t number;
};

struct players {
    uint64_t join_ns; /* when they say it next */
    uint32_t count;
    struct player player[];
};

/* A word that does not arrive is said again, or is one input of many. */
static void say(struct player *player, const char *word)
{
    char text[32];
    int len = snprintf(text, sizeof(text), "%s %u\n", word, player->number);
    for (int tries = 0; tries < 2;
         tries++) /* the first call may report what befell an earlier datagram */
        if (send(player->source.fd, text, (size_t)len, MSG_NOSIGNAL) >= 0)
            return;
    player->probe->troubles++;
}

static void take(struct player *player, const uint8_t *bytes, size_t len, uint64_t now)
{
    struct probe *probe = player->probe;
    struct cursor in = cursor_of(bytes, len);
    uint64_t number = cursor_u64(&in), stamp_ns = cursor_u64(&in);
    struct row row = { .seq = number,
                       .kind = "arrival",
                       .connection = player->number,
                       .due_ns = stamp_ns,
                       .done_ns = now,
                       .bytes = len,
                       .status = STATUS_OK };
    if (cursor_status(&in)) {
        row.seq = ROW_NO_SEQ;
        row.due_ns = 0;
        row.status = STATUS_BAD;
    } else {
        probe_heard(probe, now);
    }
    probe->put++;
    probe->requests.ended[row.status]++;
    rows_put(&probe->rows, &row);
}

static void on_ready(struct loop_source *source, uint32_t events)
{
    (void)events;
    uint8_t bytes[2048];
    struct player *player = CONTAINER_OF(source, struct player, source);
    for (unsigned i = 0; i < 64; i++) {
        ssize_t n = recv(source->fd, bytes, sizeof(bytes), MSG_TRUNC);
        uint64_t now = clock_now_ns();
        if (n >= 0)
            take(player, bytes, MIN((size_t)n, sizeof(bytes)), now);
        else if (errno == EAGAIN)
            return;
        /* other errors tell that nobody listens, or there is no way: we go on saying that we are here */
    }
}

static void arrivals_fire(struct probe *probe, uint64_t due_ns, uint64_t now_ns)
{
    (void)due_ns;
    (void)now_ns;
    struct players *all = probe->state;
    say(&all->player[(probe->fired - 1) % all->count], "input");
}

static uint64_t arrivals_turn(struct probe *probe, uint64_t now_ns)
{
    struct players *all = probe->state;
    if (now_ns >= all->join_ns) {
        for (uint32_t i = 0; i < all->count; i++)
            say(&all->player[i], "join");
        all->join_ns = now_ns + JOIN_NS;
    }
    return all->join_ns;
}

static int open_one(struct probe *probe, struct player *player, struct err *err)
{
    const struct options *options = &probe->options;
    int room = 4 << 20;
    int fd = socket(options->address.ss_family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return err_errno(err, ERR_HOST, errno, "no socket");
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof(room)); /* as much as is allowed */
    int rc = connect(fd, (const struct sockaddr *)&options->address, options->address_len) < 0
                 ? -errno
                 : loop_add(&probe->loop, &player->source, fd, EPOLLIN, on_ready);
    if (rc) {
        (void)close(fd);
        return err_errno(err, ERR_HOST, -rc, "%s", options->target);
    }
    return 0;
}

static int arrivals_open(struct probe *probe, struct err *err)
{
    uint32_t count = (uint32_t)probe->options.connections;
    struct players *all = calloc(1, sizeof(*all) + count * sizeof(all->player[0]));
    if (!all)
        return err_errno(err, ERR_HOST, ENOMEM, "%u players", count);
    probe->state = all;
    all->count = count;
    for (uint32_t i = 0; i < count; i++)
        all->player[i] = (struct player){ .probe = probe, .number = i, .source.fd = -1 };
    for (uint32_t i = 0; i < count; i++) {
        int rc = open_one(probe, &all->player[i], err);
        if (rc)
            return rc;
    }
    return 0;
}

static void arrivals_close(struct probe *probe, uint64_t now_ns)
{
    (void)now_ns;
    struct players *all = probe->state;
    for (uint32_t i = 0; all && i < all->count; i++) {
        int fd = all->player[i].source.fd;
        if (fd < 0)
            continue;
        loop_remove(&all->player[i].source);
        (void)close(fd);
    }
    free(all);
    probe->state = NULL;
}

const struct kind_ops arrivals_kind = {
    .open = arrivals_open, .fire = arrivals_fire, .turn = arrivals_turn, .close = arrivals_close
};
