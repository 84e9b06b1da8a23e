/* The part of a link that proves who is at its ends, before it carries anything. */
#include "base/clock.h"
#include "move/link.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

int link_secure_step(struct link *link, short *ret_events, struct err *err)
{
    int rc = tls_handshake(link->tls, ret_events, err);
    if (rc == -ENODATA)
        return err_set(err, ERR_PEER, ECONNRESET,
                       "the other side closed the connection instead of proving who it is");
    return !rc || rc == -EAGAIN ? rc : link_explain(link, rc, "proving who is who", err);
}

static int shake_hands(struct link *link, struct err *err)
{
    for (;;) {
        short events;
        int rc = link_secure_step(link, &events, err);
        if (rc != -EAGAIN)
            return rc;
        rc = link_await(link, events, link_stall_ms(link));
        if (rc)
            return link_explain(link, rc, "proving who is who", err);
    }
}

static int secure_as(struct link *link, const struct trust *trust, enum tls_role role,
                     const char *host, struct err *err)
{
    uint64_t until = link->until_ns, most = clock_now_ns() + LINK_HANDSHAKE_NS;
    int rc = tls_new(trust, role, host, link->fd, &link->tls, err);
    if (rc)
        return rc;
    link->until_ns = until ? MIN(until, most) : most;
    rc = shake_hands(link, err);
    link->until_ns = until;
    return rc;
}

int link_secure(struct link *link, const struct trust *trust, const char *host, struct err *err)
{
    return secure_as(link, trust, TLS_SOURCE, host, err);
}

int link_look(struct link *link, const struct trust *trust, const char *address,
              struct fingerprint *ret, struct err *err)
{
    struct tls_facts facts;
    int rc = link_connect(link, address, err);
    if (!rc)
        rc = secure_as(link, trust, TLS_LOOK, address, err);
    if (!rc && link_facts(link, &facts))
        *ret = facts.peer;
    link_close(link);
    return rc;
}

int link_secure_begin(struct link *link, const struct trust *trust, struct err *err)
{
    struct sockaddr_storage from;
    socklen_t len = sizeof(from);
    char host[NI_MAXHOST] = "HOST";
    if (getpeername(link->fd, (struct sockaddr *)&from, &len) == 0)
        (void)getnameinfo((struct sockaddr *)&from, len, host, sizeof(host), NULL, 0,
                          NI_NUMERICHOST);
    return tls_new(trust, TLS_TARGET, host, link->fd, &link->tls, err);
}

int link_check_plain(const struct link *link, const struct trust *trust, struct err *err)
{
    struct sockaddr_storage here, there;
    socklen_t here_len = sizeof(here), there_len = sizeof(there);
    if (getsockname(link->fd, (struct sockaddr *)&here, &here_len) < 0 ||
        getpeername(link->fd, (struct sockaddr *)&there, &there_len) < 0)
        return err_errno(err, ERR_PEER, errno, "connection lost");
    int rc = trust_check_plain(trust, (const struct sockaddr *)&there, err);
    return rc ? rc : trust_check_plain(trust, (const struct sockaddr *)&here, err);
}

bool link_facts(const struct link *link, struct tls_facts *ret)
{
    if (link->tls)
        tls_facts(link->tls, ret);
    return link->tls;
}

bool link_pending(const struct link *link)
{
    return link->tls && tls_pending(link->tls);
}
