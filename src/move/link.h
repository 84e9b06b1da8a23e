/*
 * Where a stream goes to and comes from: whole sends and receives over a non-blocking TCP socket, which
 * a cancel or a deadline can interrupt, or over a file. One thread; `cancel_fd` (an eventfd) is the way
 * in for others. SIGPIPE must be ignored.
 *
 * A connection to another host is encrypted, and both ends prove who they are before a byte of the stream is
 * sent or looked at: link_secure() for who connected, link_secure_begin() and link_secure_step() for who was
 * connected to. What follows is the same on encrypted and plain links. Bytes are counted as the stream has
 * them; link_facts() knows what they came to on the wire.
 *
 * "Stalled" means that not one byte moved for stall_limit_ns, however long the whole takes.
 */
#pragma once
#include "base/compiler.h"
#include "base/err.h"
#include "state/stream.h"
#include "trust/tls.h"
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

struct link {
    int fd;          /* owned; -1 = not connected */
    struct tls *tls; /* owned; NULL = plain, or a file */
    int cancel_fd;   /* borrowed; readable = stop waiting; -1 = none */
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

/* The source's end: shakes hands with the target at `host`, a name or address as the user wrote it, within the
 * stall limit and LINK_HANDSHAKE_NS. -EKEYREJECTED: one side does not trust the other; `err` has what to type. */
#define LINK_HANDSHAKE_NS (UINT64_C(10) * 1000000000)
int link_secure(struct link *link, const struct trust *trust, const char *host,
                struct err *err) MUST_CHECK;

/* Connects to `address` only to see whose key answers there, whoever that is. The link stays closed. */
int link_look(struct link *link, const struct trust *trust, const char *address,
              struct fingerprint *ret, struct err *err) MUST_CHECK;

/* The target's end, which must not wait for anyone who has not proved who it is: step again whenever the
 * socket has *ret_events, until it is no longer -EAGAIN. */
int link_secure_begin(struct link *link, const struct trust *trust, struct err *err) MUST_CHECK;
int link_secure_step(struct link *link, short *ret_events, struct err *err) MUST_CHECK;

/* Whether this connection may stay plain, by where its own or its other end is. -EPERM. */
int link_check_plain(const struct link *link, const struct trust *trust,
                     struct err *err) MUST_CHECK;

/* What the bill says about an encrypted link; false: it is plain. */
bool link_facts(const struct link *link, struct tls_facts *ret);

/* Something can be received that poll(2) on the socket does not see. */
bool link_pending(const struct link *link);

/* All of it, or -ECANCELED, -ETIMEDOUT (stalled), -EPIPE/-ECONNRESET/... with the reason in err. */
int link_send(struct link *link, const void *bytes, size_t len, struct err *err) MUST_CHECK;
/* As much of it as goes without waiting (but for the last few records of it, where they are encrypted);
 * *ret_sent may be 0. Until all of it is sent, nothing else may be. */
int link_send_some(struct link *link, const void *bytes, size_t len, size_t *ret_sent,
                   struct err *err) MUST_CHECK;
int link_recv(struct link *link, void *bytes, size_t len, struct err *err) MUST_CHECK;

/* As link_send() and link_recv(), gathered and scattered; the array is changed. */
int link_sendv(struct link *link, struct iovec *iov, int count, struct err *err) MUST_CHECK;
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

/* For the files of the link: waits for `events` on the socket. 0, -ECANCELED, -ETIMEDOUT, -errno. */
int link_await(struct link *link, short events, int timeout_ms) MUST_CHECK;
int link_stall_ms(const struct link *link);
/* Puts an errno of the socket into words; returns it, or what it stands for. */
int link_explain(struct link *link, int rc, const char *doing, struct err *err);

/* Splits HOST:PORT; host of at least NI_MAXHOST bytes, port of at least 8. */
int link_split_address(const char *address, char *host, size_t host_size, char *port,
                       size_t port_size, struct err *err) MUST_CHECK;
