/*
 * The TCP connections of a process, with the kernel's counters for each.
 *
 * All connections of the network namespace are listed (NETLINK_SOCK_DIAG), and those whose inode is among the
 * process's open files are its own, for the rest of their lives. The kernel also announces connections that end, with
 * their last figures. One that is opened and closed between two samples is not seen.
 */
#pragma once
#include "base/buf.h"
#include "base/err.h"
#include "text.h"
#include <dirent.h>
#include <stdbool.h>
#include <stdint.h>

struct tcp_address {
    unsigned char family; /* AF_INET, AF_INET6 */
    unsigned char bytes[16];
    uint16_t port;
};

struct tcp_connection {
    uint64_t cookie; /* the kernel's name for it, never used again */
    uint32_t inode;  /* 0: no process has it open any more */
    struct tcp_address local, peer;
    uint64_t sent_bytes, received_bytes, retransmitted, retransmitted_bytes, rtt_us;
    bool seen, ended; /* listed in this sample; its last figures are known */
    unsigned missed;  /* samples in which it was not listed */
};

struct tcp_list {
    struct tcp_connection *item;
    unsigned count, cap;
};

struct inode_set {
    uint32_t *inode; /* sorted */
    unsigned count, cap;
};

struct tcp {
    int list_fd, end_fd; /* -1: not allowed here */
    DIR *files;          /* the process's; NULL: none yet */
    struct inode_set own, strangers;
    uint64_t looked_ns; /* when its open files were last looked through */
    struct tcp_list listed, followed;
    uint32_t sequence;
    bool broken; /* the list could not be had this time */
};

/* Opens the sockets in the caller's network namespace. After an error, `tcp` stays usable and lists nothing. */
int tcp_open(struct tcp *tcp, struct err *err) MUST_CHECK;
void tcp_close(struct tcp *tcp);

/* Follows the connections of the process with this folder in /proc, in its network namespace. */
int tcp_follow(struct tcp *tcp, int proc_fd, struct err *err) MUST_CHECK;

/* Reads. */
void tcp_read(struct tcp *tcp, uint64_t now_ns);

/* Writes `tcp` (null where it cannot be known), and forgets what ended. */
void tcp_json(struct tcp *tcp, struct buf *buf);
