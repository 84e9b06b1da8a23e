/*
 * Fills a redis-server on this machine with `data` bytes: keys `key:0` to `key:N-1`, values of 1000 bytes, N = data / 1000.
 * Done when the server has answered for every one.
 */
#include "load.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define VALUE 1000
#define BATCH 32 /* commands that are on their way at once */
#define TRIES 100
#define TRY_NS 100000000ull

static int dial(uint16_t port)
{
    struct sockaddr_in to = { .sin_family = AF_INET,
                              .sin_port = htons(port),
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    for (unsigned i = 0; i < TRIES; i++) {
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd >= 0 && connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0)
            return fd;
        if (fd >= 0)
            close(fd);
        load_sleep_until(load_now_ns() + TRY_NS); /* it is still starting */
    }
    return -1;
}

static int send_all(int fd, const char *data, size_t len)
{
    while (len) {
        ssize_t n = send(fd, data, len, MSG_NOSIGNAL);
        if (n <= 0)
            return -1;
        data += n;
        len -= (size_t)n;
    }
    return 0;
}

/* Reads `count` answers, each of which must be +OK. */
static int take_answers(int fd, unsigned count)
{
    static const char ok[] = "+OK\r\n";
    char data[BATCH * 5];
    size_t want = count * 5, got = 0;
    while (got < want) {
        ssize_t n = recv(fd, data + got, want - got, 0);
        if (n <= 0)
            return -1;
        for (ssize_t i = 0; i < n; i++, got++)
            if (data[got] != ok[got % 5]) {
                fprintf(stderr, "godwit-load: redis: a key was not taken\n");
                return -1;
            }
    }
    return 0;
}

/* One SET into `to`, at least VALUE + 64 bytes; its length. */
static size_t put_command(char *to, unsigned long long number)
{
    static const char letters[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+-";
    unsigned char page[LOAD_PAGE];
    char key[32];
    int key_len = snprintf(key, sizeof(key), "key:%llu", number);
    int len = sprintf(to, "*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n", key_len, key, VALUE);
    load_fill_page(page, number);
    for (unsigned i = 0; i < VALUE; i++)
        to[len++] = letters[page[i] % 64];
    to[len++] = '\r';
    to[len++] = '\n';
    return (size_t)len;
}

int load_redis(const uint64_t *value)
{
    static char batch[BATCH * (VALUE + 128)];
    uint64_t keys = value[0] / VALUE;
    int fd = dial((uint16_t)value[1]), bad = fd < 0;
    for (uint64_t key = 0; key < keys && !bad;) {
        size_t len = 0;
        unsigned count = 0;
        for (; count < BATCH && key < keys; count++, key++)
            len += put_command(batch + len, key);
        bad = send_all(fd, batch, len) < 0 || take_answers(fd, count) < 0;
    }
    if (bad)
        fprintf(stderr, "godwit-load: redis: port %u: %s\n", (unsigned)value[1], strerror(errno));
    else
        load_ready();
    if (fd >= 0)
        close(fd);
    return bad ? -1 : 0;
}
