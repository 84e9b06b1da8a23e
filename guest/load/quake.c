/*
 * A game server's traffic: each tick the whole state is rewritten, and every player gets a small packet.
 *
 * A player is an address that has sent a datagram, whatever is in it; one that was silent for SILENCE is forgotten. A packet
 * has, in little endian, its number (8 bytes, from 0 for each player) and the server's CLOCK_MONOTONIC in nanoseconds (8),
 * then filling. The number counts ticks, also those of packets that the network refused.
 */
#include "load.h"

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define PLAYERS 32
#define SILENCE_NS 30000000000ull
#define PACKET_MAX 1400

struct player {
    struct sockaddr_in6 address;
    uint64_t heard_ns; /* 0 = nobody */
    uint64_t number;   /* of the next packet */
};

static void hear(int fd, struct player *players, uint64_t now_ns)
{
    struct sockaddr_in6 from;
    socklen_t len = sizeof(from);
    char data[64];
    for (unsigned i = 0; i < 4 * PLAYERS; i++, len = sizeof(from)) {
        if (recvfrom(fd, data, sizeof(data), MSG_TRUNC, (struct sockaddr *)&from, &len) < 0)
            return;
        struct player *player = NULL;
        for (unsigned p = 0; p < PLAYERS; p++)
            if (players[p].heard_ns && players[p].address.sin6_port == from.sin6_port &&
                memcmp(&players[p].address.sin6_addr, &from.sin6_addr, sizeof(from.sin6_addr)) == 0)
                player = &players[p];
        for (unsigned p = 0; p < PLAYERS && !player; p++)
            if (!players[p].heard_ns) {
                player = &players[p];
                *player = (struct player){ .address = from };
            }
        if (player)
            player->heard_ns = now_ns; /* else the server is full */
    }
}

static void put_le64(unsigned char *to, uint64_t value)
{
    for (unsigned i = 0; i < 8; i++)
        to[i] = (unsigned char)(value >> (8 * i));
}

static void tell(int fd, struct player *players, size_t bytes, uint64_t now_ns)
{
    unsigned char packet[PACKET_MAX];
    memset(packet, 'q', sizeof(packet));
    for (unsigned p = 0; p < PLAYERS; p++) {
        struct player *player = &players[p];
        if (player->heard_ns && now_ns - player->heard_ns > SILENCE_NS)
            player->heard_ns = 0;
        if (!player->heard_ns)
            continue;
        put_le64(packet, player->number++);
        put_le64(packet + 8, load_now_ns());
        (void)sendto(fd, packet, bytes, 0, (struct sockaddr *)&player->address,
                     sizeof(player->address));
    }
}

int load_quake(const uint64_t *value)
{
    static struct player players[PLAYERS];
    uint64_t tick_ns = value[0] * 1000000, state = value[1] / LOAD_PAGE * LOAD_PAGE, number = 0;
    struct sockaddr_in6 own = { .sin6_family = AF_INET6, .sin6_port = htons((uint16_t)value[3]) };
    unsigned char *memory = state ? load_take_memory(state) : NULL;
    int fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (state && !memory)
        return -1;
    if (fd < 0 || bind(fd, (struct sockaddr *)&own, sizeof(own)) < 0) {
        fprintf(stderr, "godwit-load: quake: port %u: %s\n", (unsigned)value[3], strerror(errno));
        return -1;
    }
    load_ready();
    for (uint64_t due = load_now_ns();; number++) {
        uint64_t now = load_now_ns();
        hear(fd, players, now);
        for (uint64_t at = 0; at < state; at += 64) /* a word in each cache line */
            *(volatile uint64_t *)(void *)(memory + at) = number;
        tell(fd, players, (size_t)value[2], now);
        /* Ticks that a stall swallowed stay swallowed. */
        due = due + tick_ns > load_now_ns() ? due + tick_ns : load_now_ns();
        load_sleep_until(due);
    }
}
