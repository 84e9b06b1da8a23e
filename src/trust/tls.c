/*
 * Only what is needed of TLS is switched on: version 1.3, X25519, Ed25519 signatures, two ciphers, client
 * certificates required, no tickets and no resumption (a resumed session would skip the look at the key),
 * no configuration file and no environment of OpenSSL's.
 *
 * Certificates are containers: verify() replaces all that X.509 would check by a question about the key in
 * it. That the peer has the private half is what TLS checks next (CertificateVerify), before the handshake
 * can succeed.
 *
 * Costs: a record has 16 KiB at most, and OpenSSL would give each a write(2) of its own and read it with two
 * read(2). So records gather in a buffer until it is full or the message ends, and reading takes what is
 * there (docs/trust.md has numbers). Where the kernel takes over encryption, its socket is used directly.
 */
#include "trust/tls.h"
#include "base/clock.h"
#include "trust/openssl.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define WRITE_BUFFER_BYTES (256 * 1024)
#define READ_BUFFER_BYTES (128 * 1024)
#define CERT_BYTES_MAX 2048 /* ours have some 300 */
/* RFC 8446, 5.5: AES-GCM wants a new key after some 2^24 full records; we take one far earlier. */
#ifndef REKEY_BYTES /* tests make it small */
#define REKEY_BYTES (UINT64_C(1) << 36)
#endif

enum phase { PHASE_HANDSHAKE, PHASE_WELCOME, PHASE_UP, PHASE_BROKEN };

struct tls {
    const struct trust *trust;
    SSL *ssl;
    enum tls_role role;
    enum phase phase;
    bool deaf; /* reads nothing yet: a client's first step must not take what is to be looked at */
    bool first_seen; /* the peer's first byte is one of TLS */
    bool peer_plain;
    char host[256];
    struct fingerprint peer;
    struct err refused; /* verify()'s, code 0 = none */
    uint64_t began_ns, handshake_ns;
    uint64_t keyed_bytes; /* sent under the present key */
};

/* ------------------------------------------------------------------------------------------ the context */

static int verify(X509_STORE_CTX *store, void *arg)
{
    (void)arg;
    const SSL *ssl = X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx());
    struct tls *tls = SSL_get_app_data(ssl);
    X509 *cert = X509_STORE_CTX_get0_cert(store);
    EVP_PKEY *key = cert ? X509_get0_pubkey(cert) : NULL;
    int rc = 0;

    if (!key || EVP_PKEY_get_base_id(key) != EVP_PKEY_ED25519 ||
        fingerprint_of_key(key, &tls->peer))
        rc = err_set(&tls->refused, ERR_PEER, EKEYREJECTED, "untrusted: %s shows no Ed25519 key",
                     tls->host);
    else if (tls->role == TLS_SOURCE)
        rc = trust_check_target(tls->trust, tls->host, &tls->peer, &tls->refused);
    else if (tls->role == TLS_TARGET)
        rc = trust_check_source(tls->trust, tls->host, &tls->peer, &tls->refused);
    /* Becomes the alert unknown_ca, which explain() of the other side knows how to read. */
    X509_STORE_CTX_set_error(store, rc ? X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT : X509_V_OK);
    return rc == 0;
}

/* AES where the processor has instructions for it; a peer that prefers the other is given way to. */
static const char *ciphers(void)
{
    return __builtin_cpu_supports("aes") && __builtin_cpu_supports("pclmul")
               ? "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256"
               : "TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256";
}

int tls_context_new(struct trust *trust, struct err *err)
{
    (void)OPENSSL_init_ssl(OPENSSL_INIT_NO_LOAD_CONFIG, NULL);
    SSL_CTX *ctx = SSL_CTX_new(TLS_method());
    trust->ctx = ctx;
    if (!ctx || !SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION) ||
        !SSL_CTX_set_max_proto_version(ctx, TLS1_3_VERSION) ||
        !SSL_CTX_set_ciphersuites(ctx, ciphers()) || !SSL_CTX_set1_groups_list(ctx, "X25519") ||
        !SSL_CTX_set1_sigalgs_list(ctx, "ed25519") || !SSL_CTX_set_num_tickets(ctx, 0) ||
        !SSL_CTX_use_certificate(ctx, trust->keys.cert) ||
        !SSL_CTX_use_PrivateKey(ctx, trust->keys.key)) {
        ERR_clear_error();
        return err_set(err, ERR_HOST, ENOMEM, "cannot set up TLS");
    }
    (void)SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    (void)SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET | SSL_OP_NO_COMPRESSION |
                                       SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA);
    if (trust->conf.kernel_tls)
        (void)SSL_CTX_set_options(ctx, SSL_OP_ENABLE_KTLS);
    (void)SSL_CTX_set_mode(ctx,
                           SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    (void)SSL_CTX_set_max_cert_list(ctx, CERT_BYTES_MAX);
    (void)SSL_CTX_set_max_early_data(ctx, 0);
    SSL_CTX_set_read_ahead(ctx, 1);
    SSL_CTX_set_default_read_buffer_len(ctx, READ_BUFFER_BYTES);
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    SSL_CTX_set_cert_verify_callback(ctx, verify, NULL);
    return 0;
}

void tls_context_free(struct trust *trust)
{
    if (trust->ctx) /* else OpenSSL may not have been loaded */
        SSL_CTX_free(trust->ctx);
    trust->ctx = NULL;
}

static int deafen(struct tls *tls)
{
    BIO *nothing = BIO_new(BIO_s_mem());
    if (!nothing)
        return -ENOMEM;
    (void)BIO_set_mem_eof_return(nothing, -1); /* "later" */
    SSL_set0_rbio(tls->ssl, nothing);
    tls->deaf = true;
    return 0;
}

static void hear(struct tls *tls)
{
    BIO *socket = SSL_get_wbio(tls->ssl);
    (void)BIO_up_ref(socket); /* one reference for either direction */
    SSL_set0_rbio(tls->ssl, socket);
    tls->deaf = false;
}

int tls_new(const struct trust *trust, enum tls_role role, const char *host, int fd,
            struct tls **ret, struct err *err)
{
    ASSERT(trust->ctx);
    struct tls *tls = calloc(1, sizeof(*tls));
    if (tls) {
        *tls = (struct tls){
            .trust = trust, .role = role, .ssl = SSL_new(trust->ctx), .began_ns = clock_now_ns()
        };
        (void)snprintf(tls->host, sizeof(tls->host), "%s", host);
    }
    if (!tls || !tls->ssl || !SSL_set_app_data(tls->ssl, tls) || !SSL_set_fd(tls->ssl, fd)) {
        tls_free(tls);
        return err_errno(err, ERR_HOST, ENOMEM, "cannot encrypt the connection");
    }
    if (role == TLS_TARGET)
        SSL_set_accept_state(tls->ssl);
    else
        SSL_set_connect_state(tls->ssl);
    if (role != TLS_TARGET && deafen(tls)) {
        tls_free(tls);
        return err_errno(err, ERR_HOST, ENOMEM, "cannot encrypt the connection");
    }
    *ret = tls;
    return 0;
}

void tls_free(struct tls *tls)
{
    if (!tls)
        return;
    ERR_clear_error();
    if (tls->ssl && tls->phase == PHASE_UP && SSL_shutdown(tls->ssl) >= 0)
        (void)BIO_flush(SSL_get_wbio(tls->ssl));
    ERR_clear_error();
    SSL_free(tls->ssl);
    free(tls);
}

/* --------------------------------------------------------------------------------------- what went wrong */

static bool is_refusal(int reason)
{
    return reason == SSL_R_TLSV1_ALERT_UNKNOWN_CA || reason == SSL_R_SSLV3_ALERT_BAD_CERTIFICATE ||
           reason == SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED ||
           reason == SSL_R_SSLV3_ALERT_CERTIFICATE_UNKNOWN;
}

/* The peer said that it does not trust us: what to type there. A source shows that by itself. */
static int refused_by_peer(const struct tls *tls, struct err *err)
{
    char own[FINGERPRINT_TEXT_MAX], name[65] = "HOST";
    fingerprint_text(&tls->trust->keys.print, own);
    (void)gethostname(name, sizeof(name) - 1);
    if (tls->role == TLS_TARGET)
        return err_set(err, ERR_PEER, EKEYREJECTED,
                       "untrusted: the source at %s does not trust this host's key %s", tls->host,
                       own);
    return err_set(
        err, ERR_PEER, EKEYREJECTED,
        "untrusted: %s does not trust this host's key %s; if it should, type there: godwit "
        "trust %s %s",
        tls->host, own, name, own);
}

/* Why an operation of OpenSSL returned `n` <= 0, as -errno. */
static int explain(struct tls *tls, int n, short *ret_events, struct err *err)
{
    int system = errno, kind = SSL_get_error(tls->ssl, n);
    int reason = ERR_GET_REASON(ERR_peek_error());
    bool was_up = tls->phase == PHASE_UP;

    if (kind == SSL_ERROR_WANT_READ || kind == SSL_ERROR_WANT_WRITE) {
        *ret_events = kind == SSL_ERROR_WANT_READ ? POLLIN : POLLOUT;
        return -EAGAIN;
    }
    /* A key update flushes through OpenSSL's own buffer, which does not tell from the one below it that the
     * socket is full (3.0: buffer_ctrl() passes the flush on, and not the wish to retry). */
    if (kind == SSL_ERROR_SYSCALL && system == EAGAIN) {
        *ret_events = POLLOUT;
        return -EAGAIN;
    }
    tls->phase = PHASE_BROKEN;
    if (tls->refused.code) {
        if (err)
            *err = tls->refused;
        return -tls->refused.code;
    }
    if (kind == SSL_ERROR_ZERO_RETURN ||
        (kind == SSL_ERROR_SSL && reason == SSL_R_UNEXPECTED_EOF_WHILE_READING))
        return -ENODATA;
    if (kind == SSL_ERROR_SYSCALL)
        return system ? -system : -ENODATA;
    if (!was_up && is_refusal(reason))
        return refused_by_peer(tls, err);
    const char *text = ERR_reason_error_string(ERR_peek_error());
    return err_set(err, ERR_PEER, EPROTO, "%s: %s",
                   was_up ? "the encrypted connection is damaged" : "TLS handshake failed",
                   text ? text : "no reason given");
}

/* ---------------------------------------------------------------------------------------- the handshake */

/* Looks at the peer's first bytes before OpenSSL takes them: a peer that speaks our stream unencrypted is a
 * mistake to be named, not noise. */
static int look_first(struct tls *tls, short *ret_events, struct err *err)
{
    static const char magic[] = { 'g', 'o', 'd', 'w', 'i', 't' };
    char bytes[sizeof(magic)];
    ssize_t n = recv(SSL_get_fd(tls->ssl), bytes, sizeof(bytes), MSG_PEEK | MSG_DONTWAIT);
    if (n == 0)
        return -ENODATA;
    if (n < 0 && errno != EAGAIN && errno != EINTR)
        return -errno;
    if (n < 0) {
        *ret_events = POLLIN;
        return -EAGAIN;
    }
    if (bytes[0] == TLS_FIRST_BYTE || bytes[0] == 0x15) { /* or an alert */
        tls->first_seen = true;
        return 0;
    }
    tls->peer_plain = memcmp(bytes, magic, (size_t)n) == 0;
    if (tls->peer_plain)
        return err_set(err, ERR_PEER, EPROTO,
                       "%s does not encrypt: --insecure is given there and not here", tls->host);
    return err_set(err, ERR_PEER, EPROTO, "what %s says is no TLS", tls->host);
}

/* Records gather in a buffer from now on, unless the kernel makes them. */
static int buffer_writes(struct tls *tls, struct err *err)
{
    BIO *socket = SSL_get_wbio(tls->ssl);
    if (BIO_get_ktls_send(socket))
        return 0;
    BIO *buffer = BIO_new(BIO_f_buffer());
    if (!buffer || !BIO_set_write_buffer_size(buffer, WRITE_BUFFER_BYTES)) {
        BIO_free(buffer);
        return err_errno(err, ERR_HOST, ENOMEM, "cannot encrypt the connection");
    }
    (void)BIO_up_ref(socket); /* one reference for either direction */
    SSL_set0_wbio(tls->ssl, BIO_push(buffer, socket));
    return 0;
}

static int come_up(struct tls *tls, struct err *err)
{
    int rc = buffer_writes(tls, err);
    tls->phase = rc ? PHASE_BROKEN : PHASE_UP;
    tls->handshake_ns = clock_now_ns() - tls->began_ns;
    return rc;
}

static int welcome(struct tls *tls, short *ret_events, struct err *err)
{
    unsigned char byte = TLS_WELCOME;
    int n = tls->role == TLS_TARGET ? SSL_write(tls->ssl, &byte, 1) : SSL_read(tls->ssl, &byte, 1);
    if (n <= 0)
        return explain(tls, n, ret_events, err);
    if (byte == TLS_WELCOME)
        return come_up(tls, err);
    tls->phase = PHASE_BROKEN;
    return err_set(err, ERR_PEER, EPROTO, "%s speaks TLS, but is no godwit", tls->host);
}

int tls_handshake(struct tls *tls, short *ret_events, struct err *err)
{
    ERR_clear_error();
    if (tls->phase == PHASE_HANDSHAKE) {
        int rc = tls->first_seen || tls->deaf ? 0 : look_first(tls, ret_events, err);
        if (rc)
            return rc;
        errno = 0;
        int n = SSL_do_handshake(tls->ssl);
        if (tls->deaf && SSL_get_error(tls->ssl, n) == SSL_ERROR_WANT_READ) {
            hear(tls); /* all has been said */
            *ret_events = POLLIN;
            return -EAGAIN;
        }
        if (n != 1)
            return explain(tls, n, ret_events, err);
        tls->phase = tls->role == TLS_LOOK ? PHASE_BROKEN : PHASE_WELCOME;
        if (tls->role == TLS_LOOK)
            return 0;
    }
    errno = 0;
    if (tls->phase == PHASE_WELCOME)
        return welcome(tls, ret_events, err);
    return tls->phase == PHASE_UP ? 0 : -EPIPE;
}

bool tls_peer_is_plain(const struct tls *tls)
{
    return tls->peer_plain;
}

/* --------------------------------------------------------------------------------------------- transport */

ssize_t tls_read(struct tls *tls, void *bytes, size_t len, short *ret_events, struct err *err)
{
    size_t n = 0;
    if (tls->phase != PHASE_UP)
        return -EPIPE;
    ERR_clear_error();
    errno = 0;
    int good = SSL_read_ex(tls->ssl, bytes, len, &n);
    return good > 0 ? (ssize_t)n : explain(tls, good, ret_events, err);
}

/* The kernel's TLS cannot take a new key in the kernels this was written for, and keeps its first. */
static void rekey(struct tls *tls, size_t next)
{
    if (tls->keyed_bytes + next < REKEY_BYTES)
        return;
    tls->keyed_bytes = 0;
    if (!BIO_get_ktls_send(SSL_get_wbio(tls->ssl)))
        (void)SSL_key_update(tls->ssl, SSL_KEY_UPDATE_NOT_REQUESTED);
}

ssize_t tls_write(struct tls *tls, const void *bytes, size_t len, short *ret_events,
                  struct err *err)
{
    size_t n = 0;
    if (tls->phase != PHASE_UP)
        return -EPIPE;
    ERR_clear_error();
    errno = 0;
    rekey(tls, len);
    int good = SSL_write_ex(tls->ssl, bytes, len, &n);
    if (good <= 0)
        return explain(tls, good, ret_events, err);
    tls->keyed_bytes += n;
    return (ssize_t)n;
}

int tls_flush(struct tls *tls, short *ret_events, struct err *err)
{
    BIO *out = SSL_get_wbio(tls->ssl);
    (void)err;
    if (tls->phase != PHASE_UP)
        return -EPIPE;
    errno = 0;
    if (BIO_flush(out) > 0)
        return 0;
    if (BIO_should_retry(out)) {
        *ret_events = POLLOUT;
        return -EAGAIN;
    }
    tls->phase = PHASE_BROKEN;
    return errno ? -errno : -EPIPE;
}

bool tls_pending(const struct tls *tls)
{
    return tls->phase == PHASE_UP && SSL_has_pending(tls->ssl);
}

void tls_facts(const struct tls *tls, struct tls_facts *ret)
{
    BIO *in = SSL_get_rbio(tls->ssl);
    *ret = (struct tls_facts){ .peer = tls->peer,
                               .handshake_ns = tls->handshake_ns,
                               .sent_bytes = BIO_number_written(in), /* the socket is below both */
                               .received_bytes = BIO_number_read(in),
                               .kernel_sends = BIO_get_ktls_send(in),
                               .kernel_receives = BIO_get_ktls_recv(in) };
    (void)snprintf(ret->cipher, sizeof(ret->cipher), "%s", SSL_get_cipher_name(tls->ssl));
}
