/*
 * Links over TLS between two threads, joined by a wire that can cut, damage or delay what passes: whole
 * transfers or an error, never a part or something else; and who is let in.
 */
#include "base/clock.h"
#include "base/fd.h"
#include "move/admit.h"
#include "move/link.h"
#include "trust/store.h"
#include "trusting.h"

#include <arpa/inet.h>
#include <errno.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <cmocka.h>

#define MIB (UINT64_C(1) << 20)
#define HOST "127.0.0.1"

static struct trust *trust[2]; /* the source's, the target's; they have pinned each other */

/* ------------------------------------------------------------------------------------------- the wire */

enum fault { FAULT_NONE, FAULT_CUT, FAULT_FLIP };

/* Carries bytes between two sockets until one side hangs up, with one fault in one direction. */
struct wiring {
    int end[2];
    enum fault fault;
    int direction;
    uint64_t at, passed[2];
    pthread_t thread;
};

static void *carry(void *arg)
{
    struct wiring *w = arg;
    for (bool good = true; good;) {
        struct pollfd fds[2] = { { .fd = w->end[0], .events = POLLIN },
                                 { .fd = w->end[1], .events = POLLIN } };
        (void)poll(fds, 2, -1);
        for (int d = 0; d < 2 && good; d++) {
            uint8_t bytes[4096];
            if (!fds[d].revents)
                continue;
            ssize_t n = read(w->end[d], bytes, sizeof(bytes));
            size_t len = n > 0 ? (size_t)n : 0;
            bool here = w->fault != FAULT_NONE && d == w->direction && w->passed[d] <= w->at &&
                        w->passed[d] + len > w->at;
            if (here && w->fault == FAULT_CUT)
                len = (size_t)(w->at - w->passed[d]);
            else if (here)
                bytes[w->at - w->passed[d]] ^= 0x10;
            w->passed[d] += len;
            good = n > 0 && fd_write_full(w->end[!d], bytes, len) == 0 &&
                   !(here && w->fault == FAULT_CUT);
        }
    }
    fd_close(&w->end[0]);
    fd_close(&w->end[1]);
    return NULL;
}

static void tcp_pair(int fds[2])
{
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t len = sizeof(at);
    CLEANUP_FD int listening = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(listening, (struct sockaddr *)&at, len), 0);
    assert_int_equal(listen(listening, 1), 0);
    assert_int_equal(getsockname(listening, (struct sockaddr *)&at, &len), 0);
    fds[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fds[0], (struct sockaddr *)&at, len), 0);
    fds[1] = accept4(listening, NULL, NULL, SOCK_CLOEXEC);
    assert_true(fds[1] >= 0);
}

/* -------------------------------------------------------------------------------------------- the ends */

static struct link link_over(int fd)
{
    struct link link = LINK_NONE;
    struct err err;
    link.stall_limit_ns = 5 * CLOCK_SECOND;
    assert_int_equal(link_adopt(&link, fd, &err), 0);
    return link;
}

/* As a receiver does it. */
static int be_target(struct link *link, const struct trust *own, struct err *err)
{
    int rc = link_secure_begin(link, own, err);
    uint64_t until = clock_now_ns() + 5 * CLOCK_SECOND;
    short events = POLLIN;
    while (!rc && (rc = link_secure_step(link, &events, err)) == -EAGAIN)
        rc = clock_now_ns() < until ? link_await(link, events, 5000) : -ETIMEDOUT;
    return rc;
}

struct target {
    struct link link;
    const struct trust *trust;
    uint64_t expect; /* bytes to receive, whose value is their place; then one byte is answered */
    bool hold;       /* after the handshake: do nothing until the link is closed by the test */
    int rc;
    bool complete;
    struct err err;
    pthread_t thread;
};

static uint8_t value_at(uint64_t at)
{
    return (uint8_t)(at * 2654435761u >> 13);
}

static void *target_thread(void *arg)
{
    struct target *t = arg;
    static const size_t sizes[] = { 1, 24, 40, 4096, 16384, 16385, 100000, 262144 };
    uint8_t *bytes = malloc(2 * 262144);
    t->rc = be_target(&t->link, t->trust, &t->err);
    if (!t->rc && t->hold) {
        free(bytes);
        return NULL;
    }
    for (uint64_t got = 0, i = 0; !t->rc && got < t->expect; i++) {
        size_t a = sizes[i % ARRAY_LEN(sizes)], b = sizes[(i * 5 + 3) % ARRAY_LEN(sizes)];
        a = (size_t)MIN((uint64_t)a, t->expect - got);
        b = (size_t)MIN((uint64_t)b, t->expect - got - a);
        struct iovec iov[2] = { { bytes, a }, { bytes + a, b } };
        t->rc = link_recvv(&t->link, iov, 2, &t->err);
        for (size_t k = 0; !t->rc && k < a + b; k++)
            if (bytes[k] != value_at(got + k)) {
                t->rc = -EILSEQ; /* must never be */
                break;
            }
        got += a + b;
    }
    t->complete = !t->rc;
    if (!t->rc)
        t->rc = link_send(&t->link, "!", 1, &t->err);
    free(bytes);
    link_close(&t->link);
    return NULL;
}

static int send_pattern(struct link *link, uint64_t total, struct err *err)
{
    static const size_t sizes[] = { 24, 300, 262144, 1, 65536, 17, 0, 40000 };
    uint8_t *bytes = malloc(3 * 262144);
    int rc = 0;
    for (uint64_t sent = 0, i = 0; !rc && sent < total; i++) {
        struct iovec iov[3];
        size_t len = 0;
        for (unsigned k = 0; k < 3; k++) {
            size_t size =
                (size_t)MIN((uint64_t)sizes[(i + k * 3) % ARRAY_LEN(sizes)], total - sent - len);
            iov[k] = (struct iovec){ bytes + len, size };
            len += size;
        }
        for (size_t k = 0; k < len; k++)
            bytes[k] = value_at(sent + k);
        rc = i % 3 ? link_sendv(link, iov, 3, err) : link_send(link, bytes, len, err);
        sent += len;
    }
    free(bytes);
    return rc;
}

struct outcome {
    int source, target;
    bool complete; /* at the target */
    struct err source_err, target_err;
    struct tls_facts facts;
    uint64_t passed[2];
};

/* One connection: the source proves itself, sends `total` bytes and waits for the answer. */
static struct outcome talk(struct wiring wiring, const struct trust *source_trust,
                           const struct trust *target_trust, uint64_t total)
{
    int left[2], right[2];
    struct outcome o = { 0 };
    tcp_pair(left);
    tcp_pair(right);
    wiring.end[0] = left[1];
    wiring.end[1] = right[0];
    struct link link = link_over(left[0]);
    struct target t = { .link = link_over(right[1]), .trust = target_trust, .expect = total };
    assert_int_equal(pthread_create(&wiring.thread, NULL, carry, &wiring), 0);
    assert_int_equal(pthread_create(&t.thread, NULL, target_thread, &t), 0);

    char answer;
    o.source = link_secure(&link, source_trust, HOST, &o.source_err);
    if (!o.source)
        o.source = send_pattern(&link, total, &o.source_err);
    if (!o.source)
        o.source = link_recv(&link, &answer, 1, &o.source_err);
    if (!o.source) {
        assert_true(link_facts(&link, &o.facts));
        assert_int_equal(link.sent_bytes, total);
        assert_int_equal(link.received_bytes, 1);
    }
    link_close(&link);
    assert_int_equal(pthread_join(t.thread, NULL), 0);
    link_close(&t.link);
    assert_int_equal(pthread_join(wiring.thread, NULL), 0);
    o.target = t.rc;
    o.complete = t.complete;
    o.target_err = t.err;
    memcpy(o.passed, wiring.passed, sizeof(o.passed));
    return o;
}

/* ------------------------------------------------------------------------------------------ transfers */

static void whole(void **state)
{
    (void)state;
    struct outcome o = talk((struct wiring){ 0 }, trust[0], trust[1], 20 * MIB + 7);
    if (o.source || o.target)
        fail_msg("%s, %s", o.source_err.text, o.target_err.text);
    assert_true(o.complete);
    assert_true(fingerprint_equal(&o.facts.peer, &trust[1]->keys.print));
    assert_true(o.facts.sent_bytes > 20 * MIB && o.facts.received_bytes > 0);
    /* As counted outside; a farewell came after. */
    assert_true(o.facts.kernel_sends ||
                (o.facts.sent_bytes <= o.passed[0] && o.facts.sent_bytes + 100 > o.passed[0]));
    assert_int_equal(strncmp(o.facts.cipher, "TLS_", 4), 0);
}

static void a_host_trusts_itself(void **state)
{
    (void)state;
    struct trust *alone = trusting_nobody();
    struct outcome o = talk((struct wiring){ 0 }, alone, alone, MIB);
    assert_true(!o.source && !o.target && o.complete);
    trusting_end(alone);
}

/* Small pieces share records: else each would cost 22 bytes and more. */
static void small_pieces_are_gathered(void **state)
{
    (void)state;
    int fds[2];
    uint8_t bytes[24];
    struct iovec iov[500];
    struct tls_facts before, after;
    struct err err;
    tcp_pair(fds);
    struct link link = link_over(fds[0]);
    struct target t = { .link = link_over(fds[1]), .trust = trust[1], .hold = true };
    assert_int_equal(pthread_create(&t.thread, NULL, target_thread, &t), 0);
    assert_int_equal(link_secure(&link, trust[0], HOST, &err), 0);
    assert_int_equal(pthread_join(t.thread, NULL), 0);
    assert_true(link_facts(&link, &before));
    for (unsigned i = 0; i < ARRAY_LEN(iov); i++)
        iov[i] = (struct iovec){ bytes, sizeof(bytes) };
    memset(bytes, 7, sizeof(bytes));
    assert_int_equal(link_sendv(&link, iov, ARRAY_LEN(iov), &err), 0);
    assert_true(link_facts(&link, &after));
    assert_true(after.sent_bytes - before.sent_bytes <= sizeof(bytes) * ARRAY_LEN(iov) + 50);

    /* What was decrypted and not taken shows here, and not in poll(2). */
    struct pollfd poll_fd = { .fd = t.link.fd, .events = POLLIN };
    assert_false(link_pending(&t.link));
    assert_int_equal(link_recv(&t.link, bytes, 1, &err), 0);
    assert_int_equal(poll(&poll_fd, 1, 0), 0);
    assert_true(link_pending(&t.link));
    assert_int_equal(link_wait(&t.link, -1), 0);
    for (unsigned left = sizeof(bytes) * ARRAY_LEN(iov) - 1; left > 0;) {
        size_t part = MIN(left, (unsigned)sizeof(bytes));
        assert_int_equal(link_recv(&t.link, bytes, part, &err), 0);
        left -= (unsigned)part;
    }
    assert_false(link_pending(&t.link));
    assert_int_equal(link_wait(&t.link, 0), -ETIMEDOUT);
    link_close(&link);
    link_close(&t.link);
}

static void faults_anywhere(void **state)
{
    (void)state;
    struct outcome all = talk((struct wiring){ 0 }, trust[0], trust[1], MIB);
    unsigned finished = 0, failed = 0;
    for (int fault = FAULT_CUT; fault <= FAULT_FLIP; fault++)
        for (int direction = 0; direction < 2; direction++)
            for (unsigned i = 0; i < 60; i++) {
                uint64_t total = direction ? all.facts.received_bytes : all.facts.sent_bytes;
                uint64_t at = i < 40 ? total * i * i / 16000 : total - 1 - (i - 40) * 7;
                if (at >= total)
                    continue;
                struct wiring wiring = { .fault = (enum fault)fault,
                                         .direction = direction,
                                         .at = at };
                struct outcome o = talk(wiring, trust[0], trust[1], MIB);
                assert_int_not_equal(o.target, -EILSEQ);
                assert_true(o.source || o.complete); /* an answer means that it has it all */
                assert_true(o.source == 0 || o.source_err.text[0]);
                assert_true(direction == 1 || o.source); /* no byte of it is of no account */
                finished += o.source == 0;
                failed += o.source != 0;
            }
    print_message("# %u finished, %u failed\n", finished, failed);
    assert_true(failed > 100);
}

/* The other end takes nothing any more. */
static void stalled_and_cancelled(void **state)
{
    (void)state;
    for (int cancelled = 0; cancelled < 2; cancelled++) {
        int fds[2];
        struct err err;
        tcp_pair(fds);
        struct link link = link_over(fds[0]);
        CLEANUP_FD int cancel_fd = eventfd(0, EFD_CLOEXEC);
        struct target t = { .link = link_over(fds[1]), .trust = trust[1], .hold = true };
        assert_int_equal(pthread_create(&t.thread, NULL, target_thread, &t), 0);
        assert_int_equal(link_secure(&link, trust[0], HOST, &err), 0);
        assert_int_equal(pthread_join(t.thread, NULL), 0);
        link.cancel_fd = cancel_fd;
        link.stall_limit_ns = cancelled ? 0 : 50 * CLOCK_MSEC;
        if (cancelled)
            assert_int_equal(eventfd_write(cancel_fd, 1), 0);
        int rc = send_pattern(&link, 256 * MIB, &err);
        assert_int_equal(rc, cancelled ? -ECANCELED : -ETIMEDOUT);
        assert_true(link.mid_section);
        link_close(&link);
        link_close(&t.link);
    }
}

static void cancelled_handshake(void **state)
{
    (void)state;
    int fds[2];
    struct err err;
    tcp_pair(fds);
    struct link link = link_over(fds[0]);
    link.cancel_fd = eventfd(1, EFD_CLOEXEC);
    assert_int_equal(link_secure(&link, trust[0], HOST, &err), -ECANCELED);
    (void)close(link.cancel_fd);
    link_close(&link);
    (void)close(fds[1]);
}

/* -------------------------------------------------------------------------------------------- who is let in */

static void unknown_and_changed(void **state)
{
    (void)state;
    struct trust *stranger = trusting_nobody();
    struct err err = { 0 };
    char own[FINGERPRINT_TEXT_MAX], theirs[FINGERPRINT_TEXT_MAX];

    /* The source knows nobody. */
    fingerprint_text(&stranger->keys.print, own);
    fingerprint_text(&trust[1]->keys.print, theirs);
    struct outcome o = talk((struct wiring){ 0 }, stranger, trust[1], 10);
    assert_int_equal(o.source, -EKEYREJECTED);
    assert_true(strstr(o.source_err.text, own) && strstr(o.source_err.text, theirs));
    assert_non_null(strstr(o.source_err.text, "godwit trust " HOST " SHA256:"));
    assert_true(o.target && !o.complete);

    /* The source has pinned another key. */
    assert_int_equal(store_add(stranger->dir, HOST, &trust[0]->keys.print, "", false, &err), 0);
    o = talk((struct wiring){ 0 }, stranger, trust[1], 10);
    assert_int_equal(o.source, -EKEYREJECTED);
    assert_non_null(strstr(o.source_err.text, "CHANGED"));
    assert_non_null(strstr(o.source_err.text, "--replace"));
    assert_true(o.target && !o.complete);

    /* The target does not know the source: both say so, and what to type at the target. */
    assert_int_equal(store_add(stranger->dir, HOST, &trust[1]->keys.print, "", true, &err), 0);
    o = talk((struct wiring){ 0 }, stranger, trust[1], 10);
    assert_int_equal(o.target, -EKEYREJECTED);
    assert_non_null(strstr(o.target_err.text, own));
    assert_non_null(strstr(o.target_err.text, "godwit trust " HOST " SHA256:"));
    assert_int_equal(o.source, -EKEYREJECTED);
    assert_non_null(strstr(o.source_err.text, "does not trust this host's key"));
    assert_non_null(strstr(o.source_err.text, own));
    assert_false(o.complete);

    /* And then it does, without anything having been started anew. */
    assert_int_equal(store_add(trust[1]->dir, "*", &stranger->keys.print, "", false, &err), 0);
    o = talk((struct wiring){ 0 }, stranger, trust[1], 10);
    assert_true(!o.source && o.complete);
    assert_int_equal(store_remove(trust[1]->dir, "*", &err), 0);
    o = talk((struct wiring){ 0 }, stranger, trust[1], 10);
    assert_int_equal(o.source, -EKEYREJECTED);
    trusting_end(stranger);
}

/* A target faced with any client OpenSSL can make of these; returns what came of it. */
static int face(SSL_CTX *ctx, struct err *err)
{
    int fds[2];
    char byte;
    tcp_pair(fds);
    struct target t = { .link = link_over(fds[1]), .trust = trust[1], .expect = 1 };
    assert_int_equal(pthread_create(&t.thread, NULL, target_thread, &t), 0);
    SSL *ssl = SSL_new(ctx);
    assert_int_equal(SSL_set_fd(ssl, fds[0]), 1);
    if (SSL_connect(ssl) == 1 && SSL_read(ssl, &byte, 1) == 1)
        (void)SSL_write(ssl, &byte, 1);
    (void)shutdown(fds[0], SHUT_RDWR);
    assert_int_equal(pthread_join(t.thread, NULL), 0);
    SSL_free(ssl);
    (void)close(fds[0]);
    assert_false(t.complete);
    *err = t.err;
    return t.rc;
}

static void other_clients(void **state)
{
    struct err err;
    (void)state;
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    assert_int_equal(face(ctx, &err), -EPROTO); /* no certificate */
    assert_non_null(strstr(err.text, "certificate"));
    SSL_CTX_free(ctx);

    ctx = SSL_CTX_new(TLS_client_method()); /* the right key, but an old protocol */
    assert_int_equal(SSL_CTX_use_certificate(ctx, trust[0]->keys.cert), 1);
    assert_int_equal(SSL_CTX_use_PrivateKey(ctx, trust[0]->keys.key), 1);
    assert_int_equal(SSL_CTX_set_max_proto_version(ctx, TLS1_2_VERSION), 1);
    assert_int_equal(face(ctx, &err), -EPROTO);
    SSL_CTX_free(ctx);

    ctx = SSL_CTX_new(TLS_client_method()); /* a key of another kind */
    EVP_PKEY *key = EVP_PKEY_Q_keygen(NULL, NULL, "EC", "P-256");
    X509 *cert = X509_dup(trust[0]->keys.cert);
    assert_int_equal(X509_set_pubkey(cert, key), 1);
    assert_true(X509_sign(cert, key, EVP_sha256()) > 0);
    assert_int_equal(SSL_CTX_use_certificate(ctx, cert), 1);
    assert_int_equal(SSL_CTX_use_PrivateKey(ctx, key), 1);
    assert_true(face(ctx, &err) < 0);
    EVP_PKEY_free(key);
    X509_free(cert);
    SSL_CTX_free(ctx);
}

/* A source that has our key, but whose "target" is some TLS server that shows the pinned certificate and does
 * not go on as ours does. */
static void *other_server(void *arg)
{
    int fd = *(int *)arg;
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
    (void)SSL_CTX_use_certificate(ctx, trust[1]->keys.cert);
    (void)SSL_CTX_use_PrivateKey(ctx, trust[1]->keys.key);
    SSL *ssl = SSL_new(ctx);
    (void)SSL_set_fd(ssl, fd);
    if (SSL_accept(ssl) == 1)
        (void)SSL_write(ssl, "HTTP", 4);
    (void)shutdown(fd, SHUT_WR);
    char drop[256];
    while (read(fd, drop, sizeof(drop)) > 0)
        continue;
    SSL_free(ssl);
    SSL_CTX_free(ctx);
    (void)close(fd);
    return NULL;
}

static void no_welcome(void **state)
{
    int fds[2];
    struct err err;
    pthread_t thread;
    (void)state;
    tcp_pair(fds);
    struct link link = link_over(fds[0]);
    assert_int_equal(pthread_create(&thread, NULL, other_server, &fds[1]), 0);
    assert_int_equal(link_secure(&link, trust[0], HOST, &err), -EPROTO);
    assert_non_null(strstr(err.text, "no godwit"));
    link_close(&link);
    (void)pthread_join(thread, NULL);
}

static void looking_is_not_trusting(void **state)
{
    (void)state;
    int fds[2];
    struct trust *stranger = trusting_nobody();
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t len = sizeof(at);
    char address[64];
    CLEANUP_FD int listening = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(listening, (struct sockaddr *)&at, len), 0);
    assert_int_equal(listen(listening, 1), 0);
    assert_int_equal(getsockname(listening, (struct sockaddr *)&at, &len), 0);
    fds[0] =
        socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0); /* keeps the first place in the queue */
    assert_int_equal(connect(fds[0], (struct sockaddr *)&at, len), 0);
    fds[1] = accept4(listening, NULL, NULL, SOCK_CLOEXEC);
    (void)close(fds[0]);
    (void)close(fds[1]);

    struct fingerprint seen = { 0 };
    struct link link = LINK_NONE;
    struct err err = { 0 };
    link.stall_limit_ns = CLOCK_SECOND;
    (void)snprintf(address, sizeof(address), HOST ":%d", ntohs(at.sin_port));
    /* Nobody accepts yet: it times out, with nothing seen. */
    assert_int_equal(link_look(&link, stranger, address, &seen, &err), -ETIMEDOUT);
    assert_true(fingerprint_equal(&seen, &(struct fingerprint){ { 0 } }));
    assert_int_equal(link.fd, -1);
    trusting_end(stranger);
}

/* ---------------------------------------------------------------------------------------- noise and misfits */

static uint64_t seed = 88172645463325252u;

static uint8_t noise(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (uint8_t)seed;
}

/* What a target makes of `len` bytes of a client that then hangs up. */
static int hear(const void *bytes, size_t len, struct err *err)
{
    int fds[2];
    tcp_pair(fds);
    struct target t = { .link = link_over(fds[1]), .trust = trust[1], .expect = 1 };
    assert_int_equal(pthread_create(&t.thread, NULL, target_thread, &t), 0);
    (void)!send(fds[0], bytes, len, MSG_NOSIGNAL);
    (void)shutdown(fds[0], SHUT_WR);
    assert_int_equal(pthread_join(t.thread, NULL), 0);
    (void)close(fds[0]);
    assert_false(t.complete);
    *err = t.err;
    return t.rc;
}

static void garbage(void **state)
{
    (void)state;
    struct err err;
    uint8_t bytes[600];
    for (unsigned i = 0; i < 300; i++) {
        size_t len = 1 + (size_t)(noise() | noise() << 8) % sizeof(bytes);
        for (size_t k = 0; k < len; k++)
            bytes[k] = noise();
        if (i % 2) /* at least the look of a record */
            memcpy(bytes, (uint8_t[]){ 0x16, 0x03, 0x01, 0x00, (uint8_t)i }, MIN(len, (size_t)5));
        assert_true(hear(bytes, len, &err) < 0);
        assert_true(err.text[0]);
    }
    assert_int_equal(hear("GET / HTTP/1.0\r\n\r\n", 18, &err), -EPROTO);
    assert_non_null(strstr(err.text, "no TLS"));
}

/* Both ends must agree; each is told in its own language what is wrong (move/admit.h). */
static void *admitting(void *arg)
{
    struct wire *wire = arg;
    while (wire->conn && wire->phase != WIRE_OPEN) {
        struct pollfd poll_fd = { .fd = wire->link.fd, .events = wire->events };
        if (poll(&poll_fd, 1, 5000) <= 0)
            break;
        admit_step(wire);
    }
    return NULL;
}

static void misfits(void **state)
{
    (void)state;
    for (int insecure_target = 0; insecure_target < 2; insecure_target++) {
        int fds[2];
        struct err err = { 0 };
        struct move_env env = { .trust = trust[1], .insecure = insecure_target };
        struct wire target = { .link = LINK_NONE, .conn = 1 }, source = WIRE_NONE;
        pthread_t thread;
        tcp_pair(fds);
        target.link.stall_limit_ns = CLOCK_SECOND;
        assert_int_equal(admit_begin(&target, &env, fds[1]), 0);
        assert_int_equal(pthread_create(&thread, NULL, admitting, &target), 0);
        source.link = link_over(fds[0]);
        if (insecure_target) {
            assert_int_equal(link_secure(&source.link, trust[0], HOST, &err), -EPROTO);
            assert_non_null(strstr(err.text, "--insecure"));
        } else {
            struct message hello = { .type = MESSAGE_HELLO,
                                     .hello = { .token = { 1 }, .mode = MOVE_PRE_COPY } },
                           abort;
            struct section section;
            assert_int_equal(wire_send_message(&source, &hello, &err), 0);
            assert_int_equal(wire_recv_head(&source, &section, &err), 0);
            assert_int_equal(wire_recv_message(&source, &section, &abort, &err), 0);
            assert_int_equal(abort.type, MESSAGE_ABORT);
            assert_int_equal(abort.abort.reason, REASON_UNTRUSTED);
            assert_non_null(strstr(abort.abort.text, "--insecure"));
        }
        wire_close(&source); /* then the target lets go, too */
        assert_int_equal(pthread_join(thread, NULL), 0);
        assert_int_equal(target.conn, 0);
    }
    assert_string_equal(move_reason_name(REASON_UNTRUSTED), "untrusted");
}

/* A peer that says what it has to say one byte at a time: no step of the target waits for it, and the source
 * waits only so long, however steadily it dribbles. */
static void *dribble(void *arg)
{
    int fd = *(int *)arg;
    static const uint8_t record[] = { 0x16, 0x03, 0x03, 0x3f, 0xff };
    for (unsigned i = 0; send(fd, &record[MIN(i, 4u)], 1, MSG_NOSIGNAL) == 1; i++)
        (void)poll(NULL, 0, 5);
    return NULL;
}

static void slow_handshakes(void **state)
{
    int fds[2];
    struct err err;
    short events;
    pthread_t thread;
    (void)state;
    tcp_pair(fds);
    struct link target = link_over(fds[1]);
    assert_int_equal(link_secure_begin(&target, trust[1], &err), 0);
    for (unsigned i = 0; i < 100; i++) {
        static const uint8_t record[] = { 0x16, 0x03, 0x01, 0x01, 0x00, 0x01 };
        assert_int_equal(link_secure_step(&target, &events, &err), -EAGAIN);
        assert_int_equal(events, POLLIN);
        assert_int_equal(write(fds[0], &record[MIN(i, 5u)], 1), 1);
    }
    link_close(&target);
    (void)close(fds[0]);

    tcp_pair(fds);
    struct link source = link_over(fds[0]);
    source.until_ns = clock_now_ns() + 200 * CLOCK_MSEC;
    uint64_t until = source.until_ns;
    assert_int_equal(pthread_create(&thread, NULL, dribble, &fds[1]), 0);
    assert_int_equal(link_secure(&source, trust[0], HOST, &err), -ETIMEDOUT);
    assert_int_equal(source.until_ns, until); /* the caller's, as it was */
    link_close(&source);
    (void)pthread_join(thread, NULL);
    (void)close(fds[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whole),
        cmocka_unit_test(a_host_trusts_itself),
        cmocka_unit_test(small_pieces_are_gathered),
        cmocka_unit_test(faults_anywhere),
        cmocka_unit_test(stalled_and_cancelled),
        cmocka_unit_test(cancelled_handshake),
        cmocka_unit_test(unknown_and_changed),
        cmocka_unit_test(other_clients),
        cmocka_unit_test(no_welcome),
        cmocka_unit_test(looking_is_not_trusting),
        cmocka_unit_test(garbage),
        cmocka_unit_test(misfits),
        cmocka_unit_test(slow_handshakes),
    };
    (void)signal(SIGPIPE, SIG_IGN);
    trusting_pair(trust);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    for (int i = 0; i < 2; i++)
        trusting_end(trust[i]);
    return failed;
}
