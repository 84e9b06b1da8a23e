/*
 * The target's side of a live migration: the pump that carries out what move/target.h decides.
 */
#pragma once
#include "move/arrival.h"
#include "move/move.h"

/* Serves one connection after the other on listen_fd until a guest runs here (hooks.adopt and hooks.resume
 * have been called): 0. With `once`, or when cancelled, a move that failed ends it: -errno. What a failed
 * move left is gone before the next connection is looked at. *ret_settled (with 0): the source knows; else its
 * question may still come, and the record must be kept to answer it. */
int receive_run(const struct move_env *env, const struct arrival_host *host, int listen_fd,
                const uint8_t store[MOVE_STORE_BYTES], bool once, bool *ret_settled,
                struct err *err) MUST_CHECK;
