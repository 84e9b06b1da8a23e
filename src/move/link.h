/*
 * Where a stream goes to and comes from: whole sends and receives over a non-blocking TCP socket, which
 * a cancel or a deadline can interrupt, or over a file. One thread; `cancel_fd` (an eventfd) is the way
 * in for others. SIGPIPE must be ignored.
 *
 * "Stalled" means that not one byte moved for stall_limit_ns, however long the whole takes.
 */
#pragma once
#include "base/compiler.h"
#include "base/err.h"
#include "state/stream.h"
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

struct link {
    int fd;        /* owned; -1 = not connected */
    int cancel_fd; /* borrowed; readable = stop waiting; -1 = none */
    uint64_t stall_limit_ns;
    uint64_t
        until_ns; /* on the monotonic clock: nothing is waited for any longer; 0 = no such limit */
    uint64_t sent_bytes, received_bytes;
    bool file;
    bool mid_section; /* a send was interrupted: nothing more can be said on this connection */
};

#define LINK_NONE ((struct link){ .fd = -1, .cancel_fd = -1 })

/* Connects within stall_limit_ns. `address` is HOST:PORT (or [IPV6]:PORT). -ECANCELED, -ETIMEDOUT. */
int link_connect(struct link *link, const char *address, struct err *err) MUST_CHECK;

/* Takes an accepted socket. */
int link_adopt(struct link *link, int fd, struct err *err) MUST_CHECK;

/* Takes an open file, read or written from its current offset. */
void link_adopt_file(struct link *link, int fd);

void link_close(struct link *link);

/* All of it, or -ECANCELED, -ETIMEDOUT (stalled), -EPIPE/-ECONNRESET/... with the reason in err. */
int link_send(struct link *link, const void *bytes, size_t len, struct err *err) MUST_CHECK;
/* As much of it as goes without waiting; *ret_sent may be 0. Until all of it is sent, nothing else may be. */
int link_send_some(struct link *link, const void *bytes, size_t len, size_t *ret_sent,
                   struct err *err) MUST_CHECK;
int link_recv(struct link *link, void *bytes, size_t len, struct err *err) MUST_CHECK;

/* As link_recv(), scattered; the array is changed. */
int link_recvv(struct link *link, struct iovec *iov, int count, struct err *err) MUST_CHECK;

/* Keeps the queues of the connection, in both kernels' buffers, about as short as it can be without wasting a fast link:
 * what is sent next must not wait behind megabytes. For either end. */
void link_keep_short(struct link *link);

/* Waits until something can be read: 0; -ETIMEDOUT after timeout_ms (0 = only look); -ECANCELED. */
int link_wait(struct link *link, int timeout_ms) MUST_CHECK;

/* Receives and checks one section head. */
int link_recv_head(struct link *link, struct section *ret, struct err *err) MUST_CHECK;

/* Receives and checks the body of `section` into `body` (section->length bytes). */
int link_recv_body(struct link *link, const struct section *section, void *body,
                   struct err *err) MUST_CHECK;

/* Reads and drops what still comes, until the peer closes or `limit_ns` passed: so that what was said
 * last is not lost to a reset. */
void link_linger(struct link *link, uint64_t limit_ns);

/* Splits HOST:PORT; host of at least NI_MAXHOST bytes, port of at least 8. */
int link_split_address(const char *address, char *host, size_t host_size, char *port,
                       size_t port_size, struct err *err) MUST_CHECK;
