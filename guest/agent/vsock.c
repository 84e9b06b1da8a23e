#include "guest.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef AF_VSOCK
#define AF_VSOCK 40
#endif
#define CID_ANY UINT32_MAX
#define CID_HOST 2u
#define OWN_PORT_FIRST 600 /* ports below 1024 are root's */
#define OWN_PORT_LAST 1020

/* As in the kernel's linux/vm_sockets.h, which a C library need not have. */
struct address {
    sa_family_t family;
    unsigned short reserved;
    unsigned port, cid;
    unsigned char zero[4];
};
_Static_assert(sizeof(struct address) == sizeof(struct sockaddr), "sockaddr_vm");

static struct sockaddr *generic(struct address *address)
{
    return (struct sockaddr *)(void *)address;
}

int guest_vsock_listen(unsigned port)
{
    struct address address = { .family = AF_VSOCK, .port = port, .cid = CID_ANY };
    int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    if (bind(fd, generic(&address), sizeof(address)) == 0 && listen(fd, 4) == 0)
        return fd;
    int why = errno;
    close(fd);
    errno = why;
    return -1;
}

int guest_vsock_accept(int listen_fd)
{
    struct address peer = { 0 };
    socklen_t len = sizeof(peer);
    int fd = accept4(listen_fd, generic(&peer), &len, SOCK_CLOEXEC);
    if (fd >= 0 && (peer.family != AF_VSOCK || peer.cid != CID_HOST)) {
        close(fd); /* a program of this guest, over the loopback transport */
        fd = -1;
    }
    return fd;
}

int guest_vsock_dial(unsigned port)
{
    struct address own = { .family = AF_VSOCK, .cid = CID_ANY };
    struct address host = { .family = AF_VSOCK, .port = port, .cid = CID_HOST };
    int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0), rc = -1;
    if (fd < 0)
        return -1;
    for (own.port = OWN_PORT_LAST; own.port >= OWN_PORT_FIRST && rc < 0; own.port--) {
        rc = bind(fd, generic(&own), sizeof(own));
        if (rc < 0 && errno != EADDRINUSE)
            break;
    }
    if (rc == 0 && connect(fd, generic(&host), sizeof(host)) == 0)
        return fd;
    int why = errno;
    close(fd);
    errno = why;
    return -1;
}
