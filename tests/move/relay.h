/* Stands between two ends of a test, passes on what they say, and lets one fault befall one connection. */
#pragma once
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* NEWER: the stream says that only readers of version 9 and up can read it. Plain connections, `at` 0. */
enum fault { FAULT_NONE, FAULT_CUT, FAULT_FLIP, FAULT_SILENCE, FAULT_NEWER };

struct relay {
    int listen_fd, port, to_port;
    enum fault fault;
    unsigned victim; /* the connection it befalls: 0 is the first */
    bool to_source;  /* which direction's bytes count */
    uint64_t at;     /* bytes of it that pass before the fault */
    bool fired;
    uint64_t passed[2];
    unsigned strangers; /* connections that go straight to the target, say little, and stay */
    atomic_bool quit;
    pthread_t thread;
};

/* A socket that listens on the loopback, and which port it got. */
int listen_any(int *ret_port);
int connect_port(int port);

/* With to_port set and what is to befall; passes on until relay_end(). */
void relay_begin(struct relay *relay);
void relay_end(struct relay *relay);
