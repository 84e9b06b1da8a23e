/* A terminal (or pipes) joined to a VM's console. */
#pragma once
#include "base/compiler.h"
#include "base/err.h"
#include "ctl/client.h"
#include <stdbool.h>

enum attach_end {
    ATTACH_ENDED = 1, /* the console closed: the VM has ended or moved away */
    ATTACH_DETACHED,  /* the user typed the escape */
    ATTACH_SIGNALLED, /* SIGINT, SIGTERM or SIGHUP came */
};

struct attach {
    int console_fd;              /* non-blocking; the caller's */
    struct client *client;       /* to learn why the VM ended, or NULL */
    int escape;                  /* the byte that detaches; -1 = none */
    bool subscribed;             /* set here */
    char state[32], reason[256]; /* out: the last vm.state event, if one came */
};

/* "^]", "^a", "none" into a byte or -1. -EINVAL. */
int attach_read_escape(const char *text, int *ret, struct err *err) MUST_CHECK;

/* Joins stdin and stdout to the console until one of the above. A terminal on stdin is raw
 * meanwhile and always put back. The end of a stdin that is no terminal does not end it. May be
 * called again to go on. */
int attach_run(struct attach *attach, enum attach_end *ret, struct err *err) MUST_CHECK;
