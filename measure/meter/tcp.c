/*
 * Looking through a process's open files costs a call for each, so it happens only when a connection shows up that was
 * in nobody's hands at the last look, and once a second, since a socket can be handed from one process to another.
 *
 * The counters: `sent` is payload that was sent for the first time, `received` payload in order; the kernel counts
 * the peer's closing as one byte received. A connection that is missing from the list has ended: its last figures are
 * those the kernel announces, which may come a little later than it goes, so they are waited for during one sample.
 */
#include "tcp.h"

#include "base/clock.h"
#include "base/fd.h"
#include "json.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/tcp.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#define LOOK_NS CLOCK_SECOND
#define ANSWER_BYTES 32768 /* what the kernel fills at most for one read of a list */
/* Connections that carry data, or will, or did: all but those that listen, wait out their time, or are requests. */
#define STATES ((1u << 1) | (1u << 2) | (1u << 4) | (1u << 5) | (1u << 8) | (1u << 9) | (1u << 11))

/* ------------------------------------------------------------------------------- sockets */

int tcp_open(struct tcp *tcp, struct err *err)
{
    *tcp = (struct tcp){ .list_fd = -1, .end_fd = -1 };
    CLEANUP_FD int list_fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
    if (list_fd < 0)
        return err_errno(err, ERR_HOST, errno, "NETLINK_SOCK_DIAG");
    CLEANUP_FD int end_fd =
        socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_SOCK_DIAG);
    struct sockaddr_nl groups = { .nl_family = AF_NETLINK,
                                  .nl_groups = (1u << (SKNLGRP_INET_TCP_DESTROY - 1)) |
                                               (1u << (SKNLGRP_INET6_TCP_DESTROY - 1)) };
    if (end_fd >= 0 && bind(end_fd, (struct sockaddr *)&groups, sizeof(groups)))
        fd_close(&end_fd); /* then the last figures are those of the last sample */
    int bytes = 1 << 20;
    if (end_fd >= 0)
        (void)setsockopt(end_fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes));
    tcp->list_fd = TAKE_FD(list_fd);
    tcp->end_fd = TAKE_FD(end_fd);
    return 0;
}

void tcp_close(struct tcp *tcp)
{
    fd_close(&tcp->list_fd);
    fd_close(&tcp->end_fd);
    if (tcp->files)
        (void)closedir(tcp->files);
    free(tcp->own.inode);
    free(tcp->strangers.inode);
    free(tcp->listed.item);
    free(tcp->followed.item);
    *tcp = (struct tcp){ .list_fd = -1, .end_fd = -1 };
}

static int open_there(struct tcp *tcp, int own_net, int net, struct err *err)
{
    if (setns(net, CLONE_NEWNET))
        return err_errno(err, ERR_HOST, errno, "the process's network namespace");
    tcp_close(tcp);
    int rc = tcp_open(tcp, err);
    if (setns(own_net, CLONE_NEWNET))
        return err_errno(err, ERR_HOST, errno, "back from the process's network namespace");
    return rc;
}

int tcp_follow(struct tcp *tcp, int proc_fd, struct err *err)
{
    struct stat own, its;
    CLEANUP_FD int own_net = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
    CLEANUP_FD int net = openat(proc_fd, "ns/net", O_RDONLY | O_CLOEXEC);
    if (own_net < 0 || net < 0 || fstat(own_net, &own) || fstat(net, &its))
        return err_errno(err, ERR_HOST, errno, "the process's network namespace");
    int rc = own.st_ino == its.st_ino ? 0 : open_there(tcp, own_net, net, err);
    if (rc)
        return rc;
    int fd = openat(proc_fd, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    tcp->files = fd < 0 ? NULL : fdopendir(fd);
    if (!tcp->files) {
        fd_close(&fd);
        return err_errno(err, ERR_HOST, errno, "the process's open files");
    }
    return 0;
}

/* ------------------------------------------------------------------------------- sets and lists */

static int by_number(const void *left, const void *right)
{
    uint32_t a, b;
    memcpy(&a, left, sizeof(a));
    memcpy(&b, right, sizeof(b));
    return (a > b) - (a < b);
}

static bool set_has(const struct inode_set *set, uint32_t inode)
{
    return set->count && bsearch(&inode, set->inode, set->count, sizeof(inode), by_number);
}

static void set_add(struct inode_set *set, uint32_t inode)
{
    if (set->count == set->cap) {
        unsigned cap = set->cap ? set->cap * 2 : 64;
        uint32_t *grown = realloc(set->inode, cap * sizeof(*grown));
        if (!grown)
            return; /* then this connection is looked for again */
        set->inode = grown;
        set->cap = cap;
    }
    set->inode[set->count++] = inode;
}

static void set_sort(struct inode_set *set)
{
    if (set->count)
        qsort(set->inode, set->count, sizeof(*set->inode), by_number);
}

static struct tcp_connection *list_add(struct tcp_list *list, const struct tcp_connection *one)
{
    if (list->count == list->cap) {
        unsigned cap = list->cap ? list->cap * 2 : 16;
        struct tcp_connection *item = realloc(list->item, cap * sizeof(*item));
        if (!item)
            return NULL;
        list->item = item;
        list->cap = cap;
    }
    list->item[list->count] = *one;
    return &list->item[list->count++];
}

static struct tcp_connection *list_find(const struct tcp_list *list, uint64_t cookie)
{
    for (unsigned i = 0; i < list->count; i++) {
        if (list->item[i].cookie == cookie)
            return &list->item[i];
    }
    return NULL;
}

/* ------------------------------------------------------------------------------- what the kernel says */

static struct tcp_address address_of(unsigned char family, const void *bytes, uint16_t port)
{
    static const unsigned char mapped[12] = { [10] = 0xff, [11] = 0xff };
    struct tcp_address address = { .family = family, .port = ntohs(port) };
    memcpy(address.bytes, bytes, family == AF_INET ? 4 : 16);
    if (family == AF_INET6 && !memcmp(bytes, mapped, sizeof(mapped))) {
        address.family = AF_INET; /* an IPv4 connection of an IPv6 socket */
        memcpy(address.bytes, (const char *)bytes + sizeof(mapped), 4);
    }
    return address;
}

/* False: no answer about a connection, or one without its counters. */
static bool parse(struct nlmsghdr *header, struct tcp_connection *ret)
{
    const struct inet_diag_msg *msg = NLMSG_DATA(header);
    if (header->nlmsg_len < NLMSG_LENGTH(sizeof(*msg)))
        return false;
    const char *at = (const char *)(msg + 1), *end = (const char *)header + header->nlmsg_len;
    struct rtattr attr;
    for (; (size_t)(end - at) >= sizeof(attr);
         at += MIN(RTA_ALIGN((size_t)attr.rta_len), (size_t)(end - at))) {
        memcpy(&attr, at, sizeof(attr));
        if (attr.rta_len < sizeof(attr) || attr.rta_len > (size_t)(end - at))
            return false;
        if (attr.rta_type != INET_DIAG_INFO)
            continue;
        struct tcp_info info = { 0 };
        memcpy(&info, at + RTA_LENGTH(0), MIN(sizeof(info), (size_t)attr.rta_len - RTA_LENGTH(0)));
        *ret = (struct tcp_connection){
            .cookie = (uint64_t)msg->id.idiag_cookie[1] << 32 | msg->id.idiag_cookie[0],
            .inode = msg->idiag_inode,
            .local = address_of(msg->idiag_family, msg->id.idiag_src, msg->id.idiag_sport),
            .peer = address_of(msg->idiag_family, msg->id.idiag_dst, msg->id.idiag_dport),
            .sent_bytes = info.tcpi_bytes_sent - MIN(info.tcpi_bytes_sent, info.tcpi_bytes_retrans),
            .received_bytes = info.tcpi_bytes_received,
            .retransmitted = info.tcpi_total_retrans,
            .retransmitted_bytes = info.tcpi_bytes_retrans,
            .rtt_us = info.tcpi_rtt,
        };
        return true;
    }
    return false;
}

static bool list_family(struct tcp *tcp, unsigned char family)
{
    struct {
        struct nlmsghdr header;
        struct inet_diag_req_v2 body;
    } request = {
        .header = { .nlmsg_len = sizeof(request),
                    .nlmsg_type = SOCK_DIAG_BY_FAMILY,
                    .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP,
                    .nlmsg_seq = ++tcp->sequence },
        .body = { .sdiag_family = family,
                  .sdiag_protocol = IPPROTO_TCP,
                  .idiag_ext = 1 << (INET_DIAG_INFO - 1),
                  .idiag_states = STATES },
    };
    if (send(tcp->list_fd, &request, sizeof(request), 0) != (ssize_t)sizeof(request))
        return false;
    for (;;) {
        _Alignas(struct nlmsghdr) char answer[ANSWER_BYTES];
        ssize_t n = recv(tcp->list_fd, answer, sizeof(answer), 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        unsigned left = (unsigned)n;
        for (struct nlmsghdr *at = (void *)answer; NLMSG_OK(at, left); at = NLMSG_NEXT(at, left)) {
            struct tcp_connection one;
            if (at->nlmsg_seq != tcp->sequence)
                continue; /* of a list that was broken off */
            if (at->nlmsg_type == NLMSG_DONE)
                return true;
            if (at->nlmsg_type == NLMSG_ERROR)
                return false;
            if (parse(at, &one))
                (void)list_add(&tcp->listed, &one);
        }
    }
}

static void read_ends(struct tcp *tcp)
{
    _Alignas(struct nlmsghdr) char news[4096];
    for (ssize_t n; tcp->end_fd >= 0;) {
        n = recv(tcp->end_fd, news, sizeof(news), 0);
        if (n < 0 && (errno == EINTR || errno == ENOBUFS))
            continue; /* ENOBUFS: there were more than fit; those have the figures of their last sample */
        if (n <= 0)
            return;
        unsigned left = (unsigned)n;
        for (struct nlmsghdr *at = (void *)news; NLMSG_OK(at, left); at = NLMSG_NEXT(at, left)) {
            struct tcp_connection one, *kept;
            if (!parse(at, &one) || !(kept = list_find(&tcp->followed, one.cookie)))
                continue;
            kept->sent_bytes = one.sent_bytes;
            kept->received_bytes = one.received_bytes;
            kept->retransmitted = one.retransmitted;
            kept->retransmitted_bytes = one.retransmitted_bytes;
            kept->ended = true;
        }
    }
}

/* ------------------------------------------------------------------------------- whose they are */

static bool someone_new(const struct tcp *tcp)
{
    for (unsigned i = 0; i < tcp->listed.count; i++) {
        uint32_t inode = tcp->listed.item[i].inode;
        if (inode && !set_has(&tcp->own, inode) && !set_has(&tcp->strangers, inode))
            return true;
    }
    return false;
}

static void look_through_files(struct tcp *tcp)
{
    static const char prefix[] = "socket:[";
    tcp->own.count = tcp->strangers.count = 0;
    rewinddir(tcp->files);
    for (struct dirent *entry; (entry = readdir(tcp->files));) {
        char target[64];
        ssize_t n = readlinkat(dirfd(tcp->files), entry->d_name, target, sizeof(target) - 1);
        if (n < 0)
            continue;
        target[n] = '\0';
        if (!strncmp(target, prefix, sizeof(prefix) - 1)) {
            const char *at = target + sizeof(prefix) - 1;
            set_add(&tcp->own, (uint32_t)text_number(&at));
        }
    }
    set_sort(&tcp->own);
    for (unsigned i = 0; i < tcp->listed.count; i++) {
        uint32_t inode = tcp->listed.item[i].inode;
        if (inode && !set_has(&tcp->own, inode))
            set_add(&tcp->strangers, inode);
    }
    set_sort(&tcp->strangers);
}

void tcp_read(struct tcp *tcp, uint64_t now_ns)
{
    if (tcp->list_fd < 0 || !tcp->files)
        return;
    tcp->listed.count = 0;
    tcp->broken = !list_family(tcp, AF_INET) || !list_family(tcp, AF_INET6);
    if (tcp->broken)
        return;
    if (someone_new(tcp) || now_ns >= tcp->looked_ns + LOOK_NS) {
        look_through_files(tcp);
        tcp->looked_ns = now_ns;
    }
    for (unsigned i = 0; i < tcp->followed.count; i++)
        tcp->followed.item[i].seen = false;
    for (unsigned i = 0; i < tcp->listed.count; i++) {
        struct tcp_connection *one = &tcp->listed.item[i],
                              *kept = list_find(&tcp->followed, one->cookie);
        one->seen = true;
        if (kept)
            *kept = *one;
        else if (set_has(&tcp->own, one->inode))
            (void)list_add(&tcp->followed, one);
    }
    read_ends(tcp);
    for (unsigned i = 0; i < tcp->followed.count; i++) {
        struct tcp_connection *kept = &tcp->followed.item[i];
        kept->ended |= !kept->seen && kept->missed++ > 0;
    }
}

/* ------------------------------------------------------------------------------- JSON */

static void address_json(struct buf *buf, const char *key, const struct tcp_address *address)
{
    char host[INET6_ADDRSTRLEN], text[INET6_ADDRSTRLEN + 16];
    (void)inet_ntop(address->family, address->bytes, host, sizeof(host));
    (void)snprintf(text, sizeof(text), address->family == AF_INET6 ? "[%s]:%u" : "%s:%u", host,
                   address->port);
    json_text(buf, key, text);
}

void tcp_json(struct tcp *tcp, struct buf *buf)
{
    if (tcp->list_fd < 0 || tcp->broken) {
        json_null(buf, "tcp");
        return;
    }
    unsigned kept = 0;
    json_list(buf, "tcp");
    for (unsigned i = 0; i < tcp->followed.count; i++) {
        const struct tcp_connection *one = &tcp->followed.item[i];
        json_object(buf, NULL);
        address_json(buf, "local", &one->local);
        address_json(buf, "peer", &one->peer);
        json_u64(buf, "sent_bytes", one->sent_bytes);
        json_u64(buf, "received_bytes", one->received_bytes);
        json_u64(buf, "retransmitted", one->retransmitted);
        json_u64(buf, "retransmitted_bytes", one->retransmitted_bytes);
        json_u64(buf, "rtt_us", one->rtt_us);
        if (one->ended)
            json_bool(buf, "closed", true);
        else
            tcp->followed.item[kept++] = *one;
        json_object_end(buf);
    }
    json_list_end(buf);
    tcp->followed.count = kept;
}
