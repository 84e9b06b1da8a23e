/* Connecting to the server, for the kinds of probe that do so by TCP. */
#pragma once
#include "base/compiler.h"
#include "options.h"

/* Begins to connect a non-blocking socket. 0 or -errno; the socket can be written once it has ended. */
int connect_begin(int fd, const struct options *options) MUST_CHECK;

/* How it ended: 0, or an errno. */
int connect_result(int fd) MUST_CHECK;
