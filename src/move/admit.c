#include "move/admit.h"
#include "base/clock.h"
#include "base/log.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

/* Lets it read why before the connection is reset, which unread bytes would cause. */
static void dismiss(struct wire *wire)
{
    tls_free(wire->link.tls);
    wire->link.tls = NULL;
    (void)shutdown(wire->link.fd, SHUT_WR);
    wire->phase = WIRE_DISMISSED;
    wire->events = POLLIN;
}

/* What a plain source is told: in its own language, and no more than fits into an empty socket. */
static void tell_plain_source(struct wire *wire)
{
    struct message message = { .type = MESSAGE_ABORT };
    CLEANUP_BUF struct buf out = { 0 };
    uint8_t head[STREAM_HEADER_BYTES];
    struct stream_header header = stream_header_ours();
    message.abort.reason = REASON_UNTRUSTED;
    message.abort.fault = ERR_CALLER;
    (void)snprintf(
        message.abort.text, sizeof(message.abort.text),
        "the target wants TLS and the source does not encrypt: give --insecure to both or to "
        "neither");
    stream_header_encode(&header, head);
    buf_put(&out, head, sizeof(head));
    message_encode(&message, &out);
    if (!buf_status(&out))
        (void)!send(wire->link.fd, out.data, out.len, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* What an encrypting source is told: tls_handshake() knows a stream header when it sees one. */
static void tell_encrypting_source(struct wire *wire)
{
    uint8_t head[STREAM_HEADER_BYTES];
    struct stream_header header = stream_header_ours();
    stream_header_encode(&header, head);
    (void)!send(wire->link.fd, head, sizeof(head), MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void open_wire(struct wire *wire)
{
    wire->phase = WIRE_OPEN;
    wire->since_ns = clock_now_ns();
}

static void prove(struct wire *wire)
{
    struct err err = { 0 };
    struct tls_facts facts;
    char print[FINGERPRINT_TEXT_MAX];
    int rc = link_secure_step(&wire->link, &wire->events, &err);
    if (rc == -EAGAIN)
        return;
    if (rc) {
        LOG_RATED(LOG_WARN, rc == -EKEYREJECTED ? "move.untrusted" : "move.newcomer", "%s",
                  err.text);
        if (tls_peer_is_plain(wire->link.tls))
            tell_plain_source(wire);
        dismiss(wire);
        return;
    }
    (void)link_facts(&wire->link, &facts);
    fingerprint_text(&facts.peer, print);
    log_event(LOG_INFO, "move.peer", "%s, %s%s", print, facts.cipher,
              facts.kernel_sends ? ", encrypted by the kernel" : "");
    open_wire(wire);
}

static void look(struct wire *wire)
{
    uint8_t first;
    ssize_t n = recv(wire->link.fd, &first, 1, MSG_PEEK | MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        wire_close(wire);
    } else if (first == TLS_FIRST_BYTE) {
        LOG_RATED(LOG_WARN, "move.untrusted",
                  "a source that encrypts was refused: this receiver was started with --insecure");
        tell_encrypting_source(wire);
        dismiss(wire);
    } else {
        open_wire(wire);
    }
}

static void drain(struct wire *wire)
{
    char drop[4096];
    ssize_t n = recv(wire->link.fd, drop, sizeof(drop), MSG_DONTWAIT);
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
        wire_close(wire);
}

int admit_begin(struct wire *wire, const struct move_env *env, int fd)
{
    struct err err = { 0 };
    int rc = link_adopt(&wire->link, fd, &err);
    if (!rc)
        rc = env->insecure ? link_check_plain(&wire->link, env->trust, &err)
                           : link_secure_begin(&wire->link, env->trust, &err);
    wire->phase = env->insecure ? WIRE_KNOCKS : WIRE_PROVES;
    wire->events = POLLIN;
    if (rc) {
        LOG_RATED(LOG_WARN, "move.newcomer", "%s", err.text);
        wire_close(wire);
    }
    return rc;
}

void admit_step(struct wire *wire)
{
    switch (wire->phase) {
    case WIRE_KNOCKS:
        look(wire);
        break;
    case WIRE_PROVES:
        prove(wire);
        break;
    case WIRE_DISMISSED:
        drain(wire);
        break;
    case WIRE_OPEN:
        break;
    }
}
