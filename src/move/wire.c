#include "move/wire.h"
#include "base/clock.h"

#include <errno.h>
#include <netdb.h>
#include <stdlib.h>

int wire_connect(struct wire *wire, const struct trust *trust, bool insecure, const char *address,
                 struct err *err)
{
    char host[NI_MAXHOST], port[8];
    int rc = link_split_address(address, host, sizeof(host), port, sizeof(port), err);
    if (!rc)
        rc = link_connect(&wire->link, address, err);
    if (!rc && insecure)
        rc = link_check_plain(&wire->link, trust, err);
    else if (!rc)
        rc = link_secure(&wire->link, trust, host, err);
    if (rc)
        link_close(&wire->link);
    wire->phase = WIRE_OPEN;
    return rc;
}

int wire_send(struct wire *wire, const void *sections, size_t len, struct err *err)
{
    if (wire->link.fd < 0 || wire->link.mid_section)
        return err_set(err, ERR_PEER, EPIPE, "the connection is no longer usable");
    if (!wire->greeted) {
        uint8_t head[STREAM_HEADER_BYTES];
        struct stream_header header = stream_header_ours();
        stream_header_encode(&header, head);
        int rc = link_send(&wire->link, head, sizeof(head), err);
        if (rc)
            return rc;
        wire->greeted = true;
    }
    return link_send(&wire->link, sections, len, err);
}

int wire_send_message(struct wire *wire, const struct message *message, struct err *err)
{
    CLEANUP_BUF struct buf out = { 0 };
    message_encode(message, &out);
    if (buf_status(&out))
        return err_errno(err, ERR_HOST, ENOMEM, "cannot send %s", message_name(message->type));
    return wire_send(wire, out.data, out.len, err);
}

int wire_recv_head(struct wire *wire, struct section *ret, struct err *err)
{
    if (!wire->header_seen) {
        uint8_t head[STREAM_HEADER_BYTES];
        struct stream_header header;
        int rc = link_recv(&wire->link, head, sizeof(head), err);
        if (!rc)
            rc = stream_header_decode(head, &header, err);
        if (rc)
            return rc;
        wire->header_seen = true;
    }
    return link_recv_head(&wire->link, ret, err);
}

int wire_recv_message(struct wire *wire, const struct section *section, struct message *ret,
                      struct err *err)
{
    CLEANUP_FREE void *body = malloc(section->length + 1u);
    if (!body)
        return err_errno(err, ERR_HOST, ENOMEM, "cannot receive a message");
    int rc = link_recv_body(&wire->link, section, body, err);
    return rc ? rc : message_decode(section, body, ret, err);
}

bool wire_is_bad_bytes(int rc)
{
    return rc == -EBADMSG || rc == -EPROTONOSUPPORT;
}

void wire_close(struct wire *wire)
{
    link_close(&wire->link);
    wire->conn = 0;
    wire->phase = WIRE_OPEN;
    wire->greeted = wire->header_seen = false;
}
