/*
 * One encrypted connection: TLS 1.3 over a connected, non-blocking socket, both ends with an Ed25519 key.
 *
 * Nothing blocks: what would returns -EAGAIN with the poll(2) events to wait for, and is called again with
 * the same arguments. -ENODATA: the other side closed. -EKEYREJECTED: this side does not trust the other, or
 * the other way round; -EPROTO: what came is no TLS, or was damaged; these two come with a text in `err`,
 * any other error is the socket's own and leaves `err` to the caller. After an error but -EAGAIN the
 * connection can only be freed. One thread at a time; SIGPIPE must be ignored.
 *
 * The handshake has a last step of our own: in TLS 1.3 a client is done before the server has looked at its
 * key. So the target's first byte, TLS_WELCOME, says that it accepts the source, and the source sends
 * nothing before that byte has come.
 */
#pragma once
#include "trust/trust.h"
#include <stdint.h>
#include <sys/types.h>

#define TLS_WELCOME 0x06
#define TLS_FIRST_BYTE 0x16 /* of a connection: a handshake record (RFC 8446, 5.1) */

#define TLS_RECORD_BYTES 16384 /* the most data of one record */

struct tls;

enum tls_role {
    TLS_SOURCE = 1, /* connected: the peer must have the key pinned for `host` */
    TLS_TARGET,     /* was connected to: the peer must have a pinned key */
    TLS_LOOK,       /* connected only to see the peer's key, whatever it is; nothing can be sent */
};

/* `host`: of a target, as the user wrote it; of a source, its numeric address. The socket stays the
 * caller's, and `trust` must outlive the connection. */
int tls_new(const struct trust *trust, enum tls_role role, const char *host, int fd,
            struct tls **ret, struct err *err) MUST_CHECK;

/* Says farewell if that is still possible without waiting. NULL is allowed. */
void tls_free(struct tls *tls);

/* 0: both ends have proved who they are. */
int tls_handshake(struct tls *tls, short *ret_events, struct err *err) MUST_CHECK;

/* Whether a failed handshake failed because the peer speaks our stream, but unencrypted. */
bool tls_peer_is_plain(const struct tls *tls);

/* Up to `len` bytes; tls_write() may keep them back until tls_flush(). */
ssize_t tls_read(struct tls *tls, void *bytes, size_t len, short *ret_events,
                 struct err *err) MUST_CHECK;
ssize_t tls_write(struct tls *tls, const void *bytes, size_t len, short *ret_events,
                  struct err *err) MUST_CHECK;
int tls_flush(struct tls *tls, short *ret_events, struct err *err) MUST_CHECK;

/* Bytes have been taken from the socket that tls_read() has not given out: poll(2) does not see them. */
bool tls_pending(const struct tls *tls);

struct tls_facts {
    char cipher[40]; /* as TLS names it */
    struct fingerprint peer;
    uint64_t handshake_ns;               /* from tls_new() */
    uint64_t sent_bytes, received_bytes; /* on the wire */
    bool kernel_sends, kernel_receives;  /* the kernel encrypts, decrypts (kTLS) */
};

/* After the handshake. */
void tls_facts(const struct tls *tls, struct tls_facts *ret);

/* For trust_open() and trust_close(). */
int tls_context_new(struct trust *trust, struct err *err) MUST_CHECK;
void tls_context_free(struct trust *trust);
