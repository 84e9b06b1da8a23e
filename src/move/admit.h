/*
 * Who comes to a receiver: from an accepted socket to a connection whose peer has proved who it is, or to its
 * dismissal. Until then nothing it says is looked at but by TLS, and nothing is waited for: the receiver's
 * loop polls the wire for wire->events and calls admit_step(), beside everything else it does.
 *
 * Both ends must agree whether the stream is encrypted; an end that finds the other does not gets told so in
 * a way it understands. Refusals go to the log (rated: anyone can cause them), with what to type.
 */
#pragma once
#include "move/move.h"
#include "move/wire.h"

/* Takes the socket, also when it fails. `wire` has its number, limits and cancel_fd. */
int admit_begin(struct wire *wire, const struct move_env *env, int fd) MUST_CHECK;

/* Something happened on a wire that is not open. Afterwards it is open, or goes on, or is closed (conn 0). */
void admit_step(struct wire *wire);
