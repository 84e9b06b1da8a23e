/* What the kinds that ask over kept connections differ in: what they say, and what is an answer. */
#pragma once
#include "http.h"
#include "probe.h"
#include "resp.h"

enum session_state { SESSION_SHUT, SESSION_CONNECTING, SESSION_OPEN };

/* One connection. At most one request at a time is under way on it. */
struct session {
    struct loop_source source; /* source.fd is owned; -1 while shut */
    struct probe *probe;
    uint32_t index;
    enum session_state state;
    bool busy; /* with request `seq` */
    uint64_t seq;
    struct buf out; /* what is to be sent; stays until the next request */
    size_t sent;
    union {
        struct http http;
        struct resp resp;
        size_t echoed;
    };
};

struct session_ops {
    /* Which of the mix a request is: sets kind, item and choice. */
    void (*plan)(struct probe *probe, struct request *request);
    /* Puts the bytes to send into session->out, and gets ready for the answer. */
    void (*ask)(struct session *session, const struct request *request);
    /* As http_feed(). */
    enum answer (*feed)(struct session *session, const uint8_t *bytes, size_t len,
                        size_t *ret_used);
    /* The server closed. NULL: that is never the end of an answer. */
    enum answer (*eof)(struct session *session);
    /* Is a whole answer what was asked for? */
    bool (*right)(const struct session *session, const struct request *request);
    /* Can the connection be used again? NULL: always. */
    bool (*kept)(const struct session *session);
};

extern const struct session_ops ask_http, ask_resp, ask_echo;
