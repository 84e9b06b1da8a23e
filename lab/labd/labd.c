/* SPDX-License-Identifier: Apache-2.0 */
/*
 * labd: process 1 of an emulated host, and its command server.
 *
 * It listens on the management network only (the socket is bound to that NIC, so neither the data
 * network nor a guest reaches it, whatever address they use), serves each connection in a process
 * of its own (session.c), and reaps what the host leaves behind. It trusts its network: whoever
 * can connect is root here. That is right for a machine that lives for one test, and for nothing
 * else.
 */
#include "session.h"

#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static void die(const char *what)
{
    fprintf(stderr, "labd: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int listen_on(const char *nic, unsigned short port)
{
    struct sockaddr_in addr = { .sin_family = AF_INET, .sin_port = htons(port) };
    int one = 1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd < 0)
        die("socket");
    if (setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, nic, (socklen_t)strlen(nic)) < 0)
        die(nic);
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0)
        die("SO_REUSEADDR");
    if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 || listen(fd, 128) < 0)
        die("listen");
    return fd;
}

static int watch_children(sigset_t *ret_old)
{
    sigset_t set;
    int fd;

    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    if (sigprocmask(SIG_BLOCK, &set, ret_old) < 0)
        die("sigprocmask");
    fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (fd < 0)
        die("signalfd");
    return fd;
}

static void reap(int sigfd)
{
    struct signalfd_siginfo info;

    while (read(sigfd, &info, sizeof(info)) > 0)
        ;
    while (waitpid(-1, NULL, WNOHANG) > 0)
        ;
}

static void serve_next(int listener, const sigset_t *session_mask)
{
    int sock = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    pid_t pid;

    if (sock < 0)
        return; /* the peer gave up, or we are short of something: it will see no answer */
    pid = fork();
    if (pid == 0) {
        sigprocmask(SIG_SETMASK, session_mask, NULL);
        close(listener);
        session_serve(sock);
        _exit(0);
    }
    close(sock);
}

int main(int argc, char **argv)
{
    sigset_t mask;
    int listener, sigfd;

    if (argc != 3) {
        fprintf(stderr, "usage: labd NIC PORT\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    listener = listen_on(argv[1], (unsigned short)atoi(argv[2]));
    sigfd = watch_children(&mask);
    if (chdir("/root") < 0)
        die("/root");
    printf("godwit-host: ready\n");
    fflush(stdout);

    for (;;) {
        struct pollfd fds[] = {
            { .fd = listener, .events = POLLIN },
            { .fd = sigfd, .events = POLLIN },
        };

        if (poll(fds, 2, -1) < 0 && errno != EINTR)
            die("poll");
        if (fds[1].revents)
            reap(sigfd);
        if (fds[0].revents)
            serve_next(listener, &mask);
    }
}
