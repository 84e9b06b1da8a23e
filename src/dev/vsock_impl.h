/*
 * Inside virtio-vsock only: what its files share.
 *
 *     virtio_vsock.c   the device: queues, packets in and out, save and load
 *     vsock_conn.c     one connection: bytes between the guest's packets and a host socket
 *     vsock_host.c     how connections come about on the host's side
 *
 * With the device's lock held, and on the loop's thread except for the *_watch() functions.
 */
#pragma once
#include "dev/virtio_vsock.h"
#include <linux/virtio_vsock.h>

#define VSOCK_KNOCKS_MAX 16  /* host clients that have not said their CONNECT yet */
#define VSOCK_KNOCK_BYTES 24 /* of that line, and a NUL */
#define VSOCK_RESETS_MAX 64  /* RST waiting for connections that are no more */
#define VSOCK_PACKET_BYTES \
    (UINT32_C(64) << 10) /* of data, the most one packet to the guest holds */

/*
 *     KNOCKING --CONNECT--> REQUESTED --RESPONSE--> OPEN --host's end has gone--> CLOSING
 *     (a host client)         ^    '---------.       ^ '------------------------.     |
 *     virtio_vsock_connect() -'      RST, late '-> FREE <- RST, both shut down -'<----'
 *     the guest's REQUEST, accepted ----------------'
 */
enum vsock_conn_state {
    VSOCK_FREE,
    VSOCK_KNOCKING,  /* no ports yet; the client has until `deadline_ns` to name one */
    VSOCK_REQUESTED, /* the guest has until `deadline_ns` to answer */
    VSOCK_OPEN,
    VSOCK_CLOSING, /* the guest was told that all is over; it has until then to answer RST */
    VSOCK_DEAD,    /* the driver reset the device: to be freed on the loop's thread */
};

/* Packets a connection owes the guest, besides data. In order of sending. */
#define VSOCK_OWES_REQUEST 1u
#define VSOCK_OWES_RESPONSE 2u
#define VSOCK_OWES_CREDIT 4u   /* tell ours */
#define VSOCK_OWES_QUESTION 8u /* ask for the guest's */
#define VSOCK_OWES_SHUTDOWN 16u

/* Bytes of connections, as the guest sees it. */
enum { VSOCK_COUNT_SENT, VSOCK_COUNT_RECEIVED };

struct vsock;

struct vsock_conn {
    struct vsock *vsock;
    enum vsock_conn_state state;
    uint32_t guest_port, host_port;
    struct loop_source source; /* of `fd`; not in the loop once the other end has gone */
    int fd;
    bool greet;                    /* the client waits for its OK line */
    char knock[VSOCK_KNOCK_BYTES]; /* its CONNECT line so far */
    uint8_t knock_len;
    uint64_t deadline_ns;
    unsigned owes;

    /* From the guest: running counts, as credit has them (5.10.6.3). */
    uint32_t received, passed, told;
    uint8_t *buffer;             /* VSOCK_BUFFER_BYTES, a ring, once there was something to hold */
    bool guest_done, guest_deaf; /* it said that it will send, receive no more */

    /* From the host. */
    uint32_t sent, peer_buffer, peer_passed;
    bool readable;  /* bytes or the end of file wait in the socket */
    bool host_done; /* end of file was read */
    bool host_gone; /* closed in both directions: what the guest sends goes nowhere */
};

struct vsock_reset {
    uint64_t from_cid;
    uint32_t from_port, to_port;
    uint16_t type;
};

struct vsock {
    struct virtio_dev vd; /* first */
    struct virtio_vsock_config config;
    struct vsock_host host;
    struct loop_source listener, timer;
    struct vsock_conn conn[VSOCK_CONNS_MAX];
    unsigned next;      /* connection that is looked at first for the guest's next packet */
    uint32_t next_port; /* of the host, for connections that begin here */
    struct vsock_reset reset[VSOCK_RESETS_MAX];
    unsigned reset_first, reset_count;
    bool tell_reset; /* TRANSPORT_RESET waits for a buffer of the event queue */
    char ticket[VSOCK_TICKET_MAX];
    struct virtq_chain chain;
    uint8_t scratch[VSOCK_PACKET_BYTES];
};

/* virtio_vsock.c: the guest is to be told RST for this packet's connection; dropped when too many
 * wait already. */
void vsock_reset(struct vsock *vsock, uint64_t from_cid, uint32_t from_port, uint32_t to_port,
                 uint16_t type);
/* Has the guest served what connections owe it. */
void vsock_wants_room(struct vsock *vsock);

/* vsock_conn.c */
struct vsock_conn *vsock_conn_find(struct vsock *vsock, uint32_t guest_port, uint32_t host_port);
/* A free slot with `fd` (taken) watched; NULL: none, and the descriptor is closed. */
struct vsock_conn *vsock_conn_new(struct vsock *vsock, enum vsock_conn_state state, int fd);
void vsock_conn_free(struct vsock_conn *conn);
/* Frees it and tells the guest RST. */
void vsock_conn_reset(struct vsock_conn *conn);
void vsock_conn_deadline(struct vsock_conn *conn, uint64_t after_ns);
/* Watches the socket for what can be dealt with now. */
void vsock_conn_watch(struct vsock_conn *conn);
/* Takes a packet of the guest whose header is `h`; its data are in `chain` behind the header. */
void vsock_conn_packet(struct vsock_conn *conn, const struct virtio_vsock_hdr *h,
                       const struct virtq_chain *chain);
/* Whether it has a packet for the guest; and makes it: fills op, flags, len and credit of *h and up
 * to `room` bytes of data in scratch. False: it had none after all. The connection may be gone
 * then. */
bool vsock_conn_ready(const struct vsock_conn *conn);
bool vsock_conn_take(struct vsock_conn *conn, struct virtio_vsock_hdr *h, uint32_t room);
/* Frees what is dead or has run out of time, and sets the timer for the next. */
void vsock_conn_expire(struct vsock *vsock, uint64_t now_ns);

/* vsock_host.c */
int vsock_host_begin(struct vsock *vsock, const struct vsock_host *host);
void vsock_host_watch(struct vsock *vsock);
void vsock_host_knock(struct vsock_conn *conn); /* more of the CONNECT line may have come */
void vsock_host_request(struct vsock *vsock, const struct virtio_vsock_hdr *h);
uint32_t vsock_host_port(struct vsock *vsock, uint32_t guest_port);
