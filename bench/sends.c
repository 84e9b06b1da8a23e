/*
 * Three ways to hand guest memory to a TCP connection, measured by themselves: docs/decisions/sends.md.
 *
 *     sends serve PORT COUNT        takes so many connections, one by one, and throws away what comes
 *     sends MODE HOST PORT [GIB]    sends so much memory (1); one JSON object with what it took
 *
 *     copy        into a buffer that stays in cache, 256 KiB at a time, then send(2)
 *     direct      sendmsg(2) straight from the memory
 *     zerocopy    the same with MSG_ZEROCOPY; `copied` says of how many calls the kernel copied after all
 */
#include "base/clock.h"
#include "base/compiler.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/errqueue.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define SECTION_BYTES (UINT64_C(256) << 10)
#define GIB (UINT64_C(1) << 30)
#define UNDERWAY_MAX 64 /* zerocopy: calls whose memory the kernel still holds */

static void die(const char *what)
{
    (void)fprintf(stderr, "sends: %s: %s\n", what, strerror(errno));
    exit(EXIT_FAILURE);
}

static struct sockaddr_in address(const char *host, const char *port)
{
    struct sockaddr_in ret = { .sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port)) };
    if (inet_pton(AF_INET, host, &ret.sin_addr) != 1) {
        errno = EINVAL;
        die(host);
    }
    return ret;
}

static int serve(const char *port, int count)
{
    struct sockaddr_in at = address("0.0.0.0", port);
    static uint8_t bytes[SECTION_BYTES];
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 ||
        bind(fd, (struct sockaddr *)&at, sizeof(at)) < 0 || listen(fd, 4) < 0)
        die("listen");
    for (; count > 0; count--) {
        int from = accept(fd, NULL, NULL);
        if (from < 0)
            die("accept");
        while (recv(from, bytes, sizeof(bytes), 0) > 0)
            ;
        (void)close(from);
    }
    (void)close(fd);
    return EXIT_SUCCESS;
}

/* Takes what the kernel says of earlier calls: returns how many are over. */
static uint32_t reap(int fd, uint32_t *copied)
{
    uint32_t over = 0;
    for (;;) {
        char control[128];
        struct msghdr message = { .msg_control = control, .msg_controllen = sizeof(control) };
        if (recvmsg(fd, &message, MSG_ERRQUEUE) < 0)
            return over;
        struct cmsghdr *head = CMSG_FIRSTHDR(&message);
        struct sock_extended_err said;
        if (!head)
            continue;
        memcpy(&said, CMSG_DATA(head), sizeof(said));
        uint32_t count = said.ee_data - said.ee_info + 1;
        over += count;
        if (said.ee_code & SO_EE_CODE_ZEROCOPY_COPIED)
            *copied += count;
    }
}

static void send_all(int fd, const uint8_t *bytes, size_t len, int flags, uint32_t *calls)
{
    while (len > 0) {
        ssize_t n = send(fd, bytes, len, flags);
        if (n < 0 && (errno == ENOBUFS || errno == EINTR)) {
            (void)poll(&(struct pollfd){ .fd = fd }, 1, 1);
            continue;
        }
        if (n < 0)
            die("send");
        bytes += n;
        len -= (size_t)n;
        ++*calls;
    }
}

static double cpu_seconds(void)
{
    struct rusage used;
    (void)getrusage(RUSAGE_SELF, &used);
    return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
           (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

static int run(const char *mode, const char *host, const char *port, uint64_t bytes)
{
    bool copy = strcmp(mode, "copy") == 0, zerocopy = strcmp(mode, "zerocopy") == 0;
    struct sockaddr_in to = address(host, port);
    uint8_t *section = malloc(SECTION_BYTES);
    uint8_t *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    uint32_t calls = 0, over = 0, copied = 0;
    if (!section || memory == MAP_FAILED)
        die("memory");
    memset(memory, 0x5a, bytes);
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0)
        die("connect");
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    if (zerocopy && setsockopt(fd, SOL_SOCKET, SO_ZEROCOPY, &one, sizeof(one)) < 0)
        die("SO_ZEROCOPY");

    uint64_t began = clock_now_ns();
    double cpu = cpu_seconds();
    for (uint64_t at = 0; at < bytes; at += SECTION_BYTES) {
        if (copy)
            memcpy(section, memory + at, SECTION_BYTES);
        send_all(fd, copy ? section : memory + at, SECTION_BYTES, zerocopy ? MSG_ZEROCOPY : 0,
                 &calls);
        while (zerocopy && calls - (over += reap(fd, &copied)) > UNDERWAY_MAX)
            (void)poll(&(struct pollfd){ .fd = fd }, 1, 100);
    }
    while (zerocopy && (over += reap(fd, &copied)) < calls)
        (void)poll(&(struct pollfd){ .fd = fd }, 1, 100);
    cpu = cpu_seconds() - cpu;
    (void)printf("{\"mode\": \"%s\", \"bytes\": %llu, \"seconds\": %.4f, \"cpu_seconds\": %.4f, "
                 "\"calls\": %u, \"copied\": %u}\n",
                 mode, (unsigned long long)bytes, (double)(clock_now_ns() - began) / 1e9, cpu,
                 calls, copied);
    (void)close(fd);
    (void)munmap(memory, bytes);
    free(section);
    return EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], "serve") == 0)
        return serve(argv[2], atoi(argv[3]));
    if (argc < 4 || (strcmp(argv[1], "copy") != 0 && strcmp(argv[1], "direct") != 0 &&
                     strcmp(argv[1], "zerocopy") != 0)) {
        (void)fprintf(
            stderr, "usage: sends serve PORT COUNT | sends copy|direct|zerocopy HOST PORT [GIB]\n");
        return 2;
    }
    uint64_t gib = argc > 4 ? (uint64_t)atoi(argv[4]) : 1;
    return run(argv[1], argv[2], argv[3], MAX(gib, UINT64_C(1)) * GIB);
}
