/*
 * One connection of a live move as a pump sees it: a link whose both directions begin with a stream header
 * and then carry sections.
 */
#pragma once
#include "move/link.h"
#include "move/message.h"

/* How far an accepted connection has come (move/admit.h). What was connected to is open at once. */
enum wire_phase {
    WIRE_OPEN,
    WIRE_KNOCKS,    /* plain: it has not said anything yet */
    WIRE_PROVES,    /* shakes hands */
    WIRE_DISMISSED, /* refused; kept until it has read why */
};

struct wire {
    struct link link;
    uint32_t conn;     /* the engine's number for it; 0 = none */
    bool greeted;      /* our header is out */
    bool header_seen;  /* the peer's has come, and is good */
    uint64_t since_ns; /* accepted, admitted or connected */
    enum wire_phase phase;
    short events; /* what to poll(2) for before it is open */
};

#define WIRE_NONE ((struct wire){ .link = LINK_NONE })

/* Connects to `address` and, unless `insecure`, has both ends prove who they are. After an error the wire is
 * not connected. Errors of link_connect() and link_secure(). */
int wire_connect(struct wire *wire, const struct trust *trust, bool insecure, const char *address,
                 struct err *err) MUST_CHECK;

/* Sends whole sections, the stream header before the first. -EPIPE without trying on a connection that was
 * left in the middle of a section. */
int wire_send(struct wire *wire, const void *sections, size_t len, struct err *err) MUST_CHECK;
int wire_send_message(struct wire *wire, const struct message *message, struct err *err) MUST_CHECK;

/* Receives the next section's head, the stream header before the first. -EBADMSG or -EPROTONOSUPPORT: what
 * came is no stream of ours; other errors: the connection is gone. */
int wire_recv_head(struct wire *wire, struct section *ret, struct err *err) MUST_CHECK;

/* Receives the body of a message section and decodes it. */
int wire_recv_message(struct wire *wire, const struct section *section, struct message *ret,
                      struct err *err) MUST_CHECK;

/* Whether an error of the receiving functions means bad bytes, and not a lost connection. */
bool wire_is_bad_bytes(int rc);

void wire_close(struct wire *wire);
