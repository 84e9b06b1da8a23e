#include "relay.h"
#include "base/compiler.h"
#include "base/fd.h"
#include "state/stream.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#define PAIRS_MAX 32

int listen_any(int *ret_port)
{
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t len = sizeof(at);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&at, len), 0);
    assert_int_equal(listen(fd, 64), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &len), 0);
    *ret_port = ntohs(at.sin_port);
    return fd;
}

int connect_port(int port)
{
    struct sockaddr_in at = { .sin_family = AF_INET,
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                              .sin_port = htons((uint16_t)port) };
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(fd, (struct sockaddr *)&at, sizeof(at)) < 0)
        fd_close(&fd);
    return fd;
}

static void make_newer(uint8_t *bytes, size_t len)
{
    struct stream_header header = stream_header_ours();
    assert_true(len >= STREAM_HEADER_BYTES);
    header.version = header.oldest_reader = 9;
    stream_header_encode(&header, bytes);
}

/* Passes on what `from` sent; false when the pair is to be closed. */
static bool pass(struct relay *relay, int from, int to, int direction, bool faulty)
{
    uint8_t bytes[4096];
    ssize_t n = read(from, bytes, sizeof(bytes));
    if (n <= 0)
        return false;
    bool counts =
        faulty && relay->fault != FAULT_NONE && !relay->fired && direction == relay->to_source;
    if (counts && relay->passed[direction] + (uint64_t)n > relay->at) {
        size_t left = (size_t)(relay->at - relay->passed[direction]);
        relay->fired = true;
        if (relay->fault == FAULT_FLIP)
            bytes[left] ^= 0x40;
        else if (relay->fault == FAULT_NEWER)
            make_newer(bytes, (size_t)n);
        else
            n = (ssize_t)left;
        if (relay->fault == FAULT_CUT) {
            (void)!write(to, bytes, (size_t)n);
            return false;
        }
    } else if (faulty && relay->fired && relay->fault == FAULT_SILENCE) {
        n = 0; /* swallowed, in both directions */
    }
    if (faulty)
        relay->passed[direction] += (uint64_t)n;
    return n == 0 || fd_write_full(to, bytes, (size_t)n) == 0;
}

static void *relay_thread(void *arg)
{
    struct relay *relay = arg;
    int pair[PAIRS_MAX][2];
    unsigned pairs = 0;

    while (!relay->quit) {
        struct pollfd fds[1 + 2 * PAIRS_MAX] = { { .fd = relay->listen_fd, .events = POLLIN } };
        for (unsigned i = 0; i < pairs; i++)
            for (int d = 0; d < 2; d++)
                fds[1 + 2 * i + (unsigned)d] =
                    (struct pollfd){ .fd = pair[i][d], .events = POLLIN };
        if (poll(fds, 1 + 2 * pairs, 20) <= 0)
            continue;
        for (unsigned i = 0; i < pairs; i++) {
            bool good = true;
            for (int d = 0; d < 2 && good; d++)
                if (fds[1 + 2 * i + (unsigned)d].revents)
                    good = pass(relay, pair[i][d], pair[i][!d], d, i == relay->victim);
            if (!good)
                for (int d = 0; d < 2; d++)
                    fd_close(&pair[i][d]);
        }
        if (fds[0].revents && pairs < PAIRS_MAX) {
            int source = accept4(relay->listen_fd, NULL, NULL, SOCK_CLOEXEC);
            int target = connect_port(relay->to_port);
            if (source < 0 || target < 0) {
                fd_close(&source);
                fd_close(&target);
                continue;
            }
            pair[pairs][0] = source;
            pair[pairs++][1] = target;
        }
    }
    for (unsigned i = 0; i < pairs; i++)
        for (int d = 0; d < 2; d++)
            fd_close(&pair[i][d]);
    return NULL;
}

void relay_begin(struct relay *relay)
{
    relay->listen_fd = listen_any(&relay->port);
    assert_int_equal(pthread_create(&relay->thread, NULL, relay_thread, relay), 0);
}

void relay_end(struct relay *relay)
{
    relay->quit = true;
    assert_int_equal(pthread_join(relay->thread, NULL), 0);
    close(relay->listen_fd);
}
